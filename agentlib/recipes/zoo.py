"""Settings files of the RL Baselines3 Zoo (YAML), read as literals: nothing in them is evaluated.

A file holds a section for each environment, "atari" for all Atari games, and sometimes "default". Keys that name a
hyperparameter are taken; keys that change nothing here are noted; every other key is refused, since a run without it
would not be the run that the file describes.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from agentlib.backbones import Cosine, Linear, Schedule
from agentlib.recipes import Recipe, close_matches
from agentlib.recipes.presets import is_atari
from agentlib.training.config import config_from_json, config_to_json

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
    try:
        import yaml
    except ImportError:
        raise ImportError("reading the zoo's files needs PyYAML: pip install 'agentlib[zoo]'") from None
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no settings file at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file that can be read safely: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(section, dict) for section in content.values()):
        raise ValueError(f"{path} is no settings file of the zoo: it must hold a section for each environment")
    name = _section(path, content, env_id)
    try:
        return _settings(name, content[name], env_id, recipe)
    except ValueError as error:
        raise ValueError(f"{path}, section {name}: {error}") from None


def schedule_from_text(text: str) -> Schedule:
    """A number, or a schedule as the zoo writes it.

    `lin_START` falls to 0 over the run; `lin_START_END` and `lin_START_END_OVER` say where to, and over which share of
    the run. `cos_` in place of `lin_` goes along a cosine.

    Raises:
        ValueError: neither.
    """
    kind, _, rest = text.partition("_")
    try:
        if kind not in ("lin", "cos"):
            return float(text)
        given = [float(number) for number in rest.split("_")]
        start, end, over = (*given, *(0.0, 1.0)[len(given) - 1 :])
        return (Linear if kind == "lin" else Cosine)(start, end, over)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor a schedule such as lin_2.3e-3 or lin_0.4_1.0") from None


def schedule_to_text(schedule: Schedule) -> str:
    """The inverse of `schedule_from_text`, as short as it can be; a function of one's own is named."""
    if not isinstance(schedule, Linear | Cosine):
        return getattr(schedule, "__name__", repr(schedule))
    numbers = [schedule.start, schedule.end, schedule.over]
    for usual in (1.0, 0.0):
        if numbers[-1] != usual:
            break
        numbers.pop()
    return "_".join(["lin" if isinstance(schedule, Linear) else "cos", *map(str, numbers)])


def _section(path: Path, content: dict[str, Any], env_id: str) -> str:
    candidates = [env_id, *(["atari"] if is_atari(env_id) else []), "default"]
    for name in candidates:
        if name in content:
            return name
    raise ValueError(f"{path} has no settings for {env_id!r}{close_matches(env_id, [str(name) for name in content])}")


def _settings(section: str, values: dict[str, Any], env_id: str, recipe: Recipe) -> ZooSettings:
    hints = get_type_hints(recipe.config)
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
    # Through JSON and back: that checks each field's type.
    config = config_from_json(recipe.config, config_to_json(recipe.config(**hyperparameters)))
    hyperparameters = {name: getattr(config, name) for name in hyperparameters}
    return ZooSettings(section=section, hyperparameters=hyperparameters, notes=tuple(notes), **run)


def _run_setting(key: str, value: Any, env_id: str, recipe: Recipe) -> dict[str, Any]:
    """What a key that is no hyperparameter says of the run; nothing where we do the same anyway."""
    if key == "n_timesteps":
        return {"steps": _fitting(key, value, int)}
    if key == "n_envs":
        return {"n_envs": _fitting(key, value, int)}
    if key == "policy" and value in BACKBONES:
        return {"backbone": BACKBONES[value]}
    if key == "env_kwargs":
        return {"env_kwargs": _mapping(key, literal(value))}
    if key not in REFUSED:
        known = [*get_type_hints(recipe.config), *RUN_KEYS, *WITHOUT_EFFECT, *REFUSED]
        raise ValueError(f"{recipe.name} has no setting {key!r}{close_matches(key, known)}")
    same = {"frame_stack": (ATARI_FRAMES,), "env_wrapper": (ATARI_WRAPPER, [ATARI_WRAPPER])} if is_atari(env_id) else {}
    if not value or value in same.get(key, ()):
        return {}
    if key == "replay_buffer_kwargs" and literal(value) == {"handle_timeout_termination": True}:
        return {}
    raise ValueError(f"{key}: {value!r} would change the run, and is not supported{REFUSED[key]}")


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{key} must be a mapping, not {value!r}")
    return dict(value or {})


def _fitting(key: str, value: Any, hint: Any) -> Any:
    """A value for a field: YAML knows 1e5 as a float or a string, a schedule as a string, a tuple as a list."""
    options = get_args(hint) or (hint,)  # of a union
    if isinstance(value, list | tuple) and key == "train_freq":
        if len(value) != 2 or value[1] != "step":
            raise ValueError(f"train_freq: {value!r} is not supported; it counts environment steps here: give a number")
        value = value[0]
    if isinstance(value, str) and {int, float} & set(options):
        value = schedule_from_text(value)
    if isinstance(value, float) and int in options and float not in options:
        if value != int(value):
            raise ValueError(f"{key} must be a whole number, not {value}")
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _policy_kwargs(value: Any, hints: dict[str, Any]) -> dict[str, Any]:
    values = _mapping("policy_kwargs", value)
    unknown = set(values) - (set(hints) & {"net_arch"})
    if unknown:
        raise ValueError(f"policy_kwargs: {', '.join(sorted(unknown))} is not supported, only net_arch")
    widths = values.get("net_arch")
    if widths is not None and not (isinstance(widths, list | tuple) and all(type(width) is int for width in widths)):
        raise ValueError(f"policy_kwargs: net_arch must be a list of widths, not {widths!r}")
    return {} if widths is None else {"net_arch": tuple(widths)}


def _normalize(value: Any, hints: dict[str, Any]) -> dict[str, Any]:
    settings = dict(value) if isinstance(value, dict) else {"norm_obs": bool(value), "norm_reward": bool(value)}
    observations, rewards = settings.pop("norm_obs", True), settings.pop("norm_reward", True)
    if settings or rewards:
        what = "normalized rewards are" if rewards else f"{', '.join(settings)} is"
        raise ValueError(f"normalize: {what} not supported; {{'norm_obs': True, 'norm_reward': False}} is")
    if observations and "normalize" not in hints:
        raise ValueError("normalize: not supported by this algorithm")
    return {"normalize": True} if observations else {}


def literal(value: Any) -> Any:
    """What a string says as a Python literal, where `dict(a=1)` stands for `{"a": 1}`; other values as they are.

    Raises:
        ValueError: it is no literal; nothing is ever evaluated.
    """
    if not isinstance(value, str):
        return value
    try:
        return _value_of(ast.parse(value.strip(), mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"{value!r} is not a literal such as dict(net_arch=[64, 64]), and is never evaluated"
        ) from None


def _value_of(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args or None in keywords:
            raise ValueError("only dict(name=value, ...) is read")
        return {name: _value_of(part) for name, part in keywords.items()}
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key or node): _value_of(part) for key, part in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, ast.List | ast.Tuple):
        parts = [_value_of(part) for part in node.elts]
        return parts if isinstance(node, ast.List) else tuple(parts)
    return ast.literal_eval(node)
