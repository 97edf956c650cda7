"""Settings of the RL Baselines3 Zoo for what can be trained here.

Keys that name a hyperparameter are taken; keys that change nothing here are noted; every other key is refused, since a
run without it would not be the run that the file describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from agentlib.core.config import config_from_json, hints_of, to_json
from agentlib.core.names import close_matches, shown
from agentlib.core.recipe import Recipe
from agentlib.runs.plan import is_atari
from agentlib.sb3.zoo_file import literal, load_sections, schedule_from_text, section_for

BACKBONES = {"MlpPolicy": "mlp", "CnnPolicy": "nature_cnn", "MultiInputPolicy": "auto"}
"""SB3's policies, and the backbone that is like theirs."""
WITHOUT_EFFECT = {
    "optimize_memory_usage": "frames are always stored once",
    "verbose": "see progress",
    "tensorboard_log": "see out",
    "seed": "see seed",
    "device": "see device",
    "monitor_kwargs": "returns are always recorded",
}
"""Keys that change no result, and why they are not needed."""
OWN_ENVIRONMENT = "; make such an environment in a function of your own, and give that to agentlib.train as env="
REFUSED = {
    "policy": "",
    "callback": "; agentlib.train takes a function as callback=",
    "env_wrapper": OWN_ENVIRONMENT,
    "frame_stack": OWN_ENVIRONMENT,
    "vec_env_wrapper": OWN_ENVIRONMENT,
    "replay_buffer_class": "",
    "replay_buffer_kwargs": "",
}
"""Keys that would change the run, and what there is in their place; empty values are taken."""
RUN_KEYS = ("n_timesteps", "n_envs", "policy_kwargs", "normalize", "env_kwargs")
ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
ATARI_FRAMES = 4


@dataclass(frozen=True, kw_only=True)
class ZooSettings:
    """What a section says."""

    section: str
    """Its name."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Fields of the algorithm's config."""
    steps: int | None = None
    """`n_timesteps`."""
    n_envs: int = 1
    """Environments side by side."""
    backbone: str = "auto"
    """What is like SB3's policy."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """For the environment's constructor."""
    notes: tuple[str, ...] = ()
    """What was left out, and why that changes nothing."""


def read_zoo(path: str | Path, env_id: str, recipe: Recipe) -> ZooSettings:
    """The settings of an algorithm for an environment, from a file of the zoo.

    Raises:
        ImportError: PyYAML is absent; the message names the extra.
        FileNotFoundError: no such file.
        ValueError: the file is no such file or has no section for the environment, or a setting is not supported.
    """
    content = load_sections(path)
    name = section_for(path, content, env_id)
    try:
        return _settings(name, content[name], env_id, recipe)
    except ValueError as error:
        raise ValueError(f"{path}, section {name}: {error}") from None


def _settings(section: str, values: dict[str, Any], env_id: str, recipe: Recipe) -> ZooSettings:
    hints = hints_of(recipe.config)
    hyperparameters: dict[str, Any] = {}
    run: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in values.items():
        if key in ("policy_kwargs", "normalize"):
            hyperparameters |= (_policy_kwargs if key == "policy_kwargs" else _normalize)(literal(value), hints)
        elif key in hints:
            hyperparameters[key] = _fitting(key, value, hints[key])
        elif key in WITHOUT_EFFECT:
            notes += [f"{key} is left out: {WITHOUT_EFFECT[key]}"] if value else []
        else:
            run |= _run_setting(key, value, env_id, recipe)
    try:  # as JSON, so that each field's type is checked before the config's own checks
        config = config_from_json(
            recipe.config, {name: to_json(value, name) for name, value in hyperparameters.items()}
        )
    except TypeError as error:
        raise ValueError(str(error)) from None
    hyperparameters = {name: getattr(config, name) for name in hyperparameters}
    return ZooSettings(section=section, hyperparameters=hyperparameters, notes=tuple(notes), **run)


def _run_setting(key: str, value: Any, env_id: str, recipe: Recipe) -> dict[str, Any]:
    """What a key that is no hyperparameter says of the run; nothing where we do the same anyway."""
    if key == "n_timesteps":
        return {"steps": _fitting(key, value, int)}
    if key == "n_envs":
        return {"n_envs": _fitting(key, value, int)}
    if key == "policy" and isinstance(value, str) and value in BACKBONES:
        return {"backbone": BACKBONES[value]}
    if key == "env_kwargs":
        return {"env_kwargs": _mapping(key, literal(value))}
    if key not in REFUSED:
        known = [*hints_of(recipe.config), *RUN_KEYS, *WITHOUT_EFFECT, *REFUSED]
        raise ValueError(f"{recipe.name} has no setting {shown(key)}{close_matches(str(key), known)}")
    same = {"frame_stack": (ATARI_FRAMES,), "env_wrapper": (ATARI_WRAPPER, [ATARI_WRAPPER])} if is_atari(env_id) else {}
    if not value or value in same.get(key, ()):
        return {}
    if key == "replay_buffer_kwargs" and literal(value) == {"handle_timeout_termination": True}:
        return {}
    raise ValueError(f"{key}: {shown(value)} would change the run, and is not supported{REFUSED[key]}")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{key} must be a mapping, not {shown(value)}")
    return dict(value or {})


def _fitting(key: str, value: Any, hint: Any) -> Any:
    """A value for a field: YAML knows 1e5 as a float or a string, a schedule as a string, a tuple as a list."""
    options = get_args(hint) or (hint,)  # of a union
    if isinstance(value, list | tuple) and key == "train_freq":
        if len(value) != 2 or value[1] != "step":
            raise ValueError(
                f"train_freq: {shown(value)} is not supported; it counts environment steps here: give a number"
            )
        value = value[0]
    if isinstance(value, str) and {int, float} & set(options):
        value = schedule_from_text(value)
    if isinstance(value, float) and int in options and float not in options:
        if not value.is_integer():
            raise ValueError(f"{key} must be a whole number, not {value}")
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _policy_kwargs(value: Any, hints: dict[str, Any]) -> dict[str, Any]:
    values = _mapping("policy_kwargs", value)
    unknown = set(values) - (set(hints) & {"net_arch"})
    if unknown:
        raise ValueError(f"policy_kwargs: {', '.join(sorted(map(str, unknown)))} is not supported, only net_arch")
    widths = values.get("net_arch")
    if widths is not None and not (isinstance(widths, list | tuple) and all(type(width) is int for width in widths)):
        raise ValueError(f"policy_kwargs: net_arch must be a list of widths, not {shown(widths)}")
    return {} if widths is None else {"net_arch": tuple(widths)}


def _normalize(value: Any, hints: dict[str, Any]) -> dict[str, Any]:
    settings = dict(value) if isinstance(value, dict) else {"norm_obs": bool(value), "norm_reward": bool(value)}
    observations, rewards = settings.pop("norm_obs", True), settings.pop("norm_reward", True)
    if settings or rewards:
        what = "normalized rewards are" if rewards else f"{', '.join(map(str, settings))} is"
        raise ValueError(f"normalize: {what} not supported; {{'norm_obs': True, 'norm_reward': False}} is")
    if observations and "normalize" not in hints:
        raise ValueError("normalize: not supported by this algorithm")
    return {"normalize": True} if observations else {}
