"""Settings of the RL Baselines3 Zoo for the learners of agentlib.

Keys that name a hyperparameter are used; keys without effect on the results are left out, with a line in `notes`; every
other key is refused, since a run without it would not be the run that the file describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agentlib.backbones.layers import ACTIVATIONS
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.names import close_matches, shown
from agentlib.core.recipe import Recipe
from agentlib.sb3.zoo_file import ZooSection, read_zoo_section

BACKBONES = {"MlpPolicy": "mlp", "CnnPolicy": "nature_cnn", "MultiInputPolicy": "auto"}
"""SB3's policies, and the backbone that is like theirs."""
WITHOUT_EFFECT = {
    "optimize_memory_usage": "frames are always stored once",
    "sde_sample_freq": "it is about use_sde",
    "verbose": "see progress",
    "tensorboard_log": "see out",
    "seed": "see seed",
    "device": "see device",
    "monitor_kwargs": "returns are always recorded",
}
"""Keys that change no result, and why they are not needed."""
OWN_ENVIRONMENT = "; make such an environment in a function of your own, and give that to agentlib.train as env="
REFUSED = {
    "callback": "; agentlib.train takes a function as callback=",
    "vec_env_wrapper": OWN_ENVIRONMENT,
    "replay_buffer_class": "",
    "replay_buffer_kwargs": "",
    "noise_type": "",
    "use_sde": "",
}
"""Keys that would change the run, and a hint at their replacement; empty values are accepted."""
OF_POLICIES = ("net_arch", "activation_fn", "ortho_init", "log_std_init")
"""Arguments of SB3's policies that are fields of configs here."""
RUN_KEYS = ("n_timesteps", "n_envs", "policy", "policy_kwargs", "normalize", "env_kwargs", "env_wrapper", "frame_stack")
NO_CHANGE = ("replay_buffer_kwargs", {"handle_timeout_termination": True})
"""A key whose value describes the behaviour that agentlib always has."""


@dataclass(frozen=True, kw_only=True)
class ZooSettings:
    """The part of a section that a run of ours takes."""

    section: str
    """Its name."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """Fields of the algorithm's config."""
    steps: int | None = None
    """`n_timesteps`."""
    n_envs: int = 1
    """Environments side by side."""
    backbone: str = "auto"
    """The backbone that is like SB3's policy."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """For the environment's constructor."""
    notes: tuple[str, ...] = ()
    """Keys that were left out, and why that changes nothing."""


def read_zoo(path: str | Path, env_id: str, recipe: Recipe) -> ZooSettings:
    """The settings of an algorithm for an environment, from a file of the zoo.

    Raises:
        ImportError: PyYAML is absent; the message names the extra.
        FileNotFoundError: no such file.
        ValueError: the file is no such file or has no section for the environment, or a setting is not supported.
    """
    section = read_zoo_section(path, env_id)
    try:
        return _settings(section, env_id, recipe)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, section {section.section}: {error}") from None


def _settings(section: ZooSection, env_id: str, recipe: Recipe) -> ZooSettings:
    known = [field.name for field in fields(recipe.config)]
    hyperparameters: dict[str, Any] = {}
    notes: list[str] = []
    for key, value in {**section.hyperparameters, **section.others, "noise_type": section.noise_type}.items():
        if key in known:
            hyperparameters[key] = value
        elif key in WITHOUT_EFFECT:
            notes += [f"{key} is left out: {WITHOUT_EFFECT[key]}"] if value else []
        elif key not in REFUSED:
            close = close_matches(key, [*known, *RUN_KEYS, *WITHOUT_EFFECT, *REFUSED])
            raise ValueError(f"{recipe.name} has no setting {shown(key)}{close}")
        elif value and (key, value) != NO_CHANGE:
            raise ValueError(f"{key}: {shown(value)} would change the run, and is not supported{REFUSED[key]}")
    if changes := section.environment_changes(env_id):
        raise ValueError(f"{shown(', '.join(changes))} would change the run, and is not supported{OWN_ENVIRONMENT}")
    if section.policy not in (None, *BACKBONES):
        raise ValueError(f"policy: {shown(section.policy)} would change the run, and is not supported")
    frequency = hyperparameters.get("train_freq")
    if isinstance(frequency, tuple):
        if frequency[1:] != ("step",):
            hint = "it counts environment steps here: give a number"
            raise ValueError(f"train_freq: {shown(frequency)} is not supported; {hint}")
        hyperparameters["train_freq"] = frequency[0]
    hyperparameters |= _of_policy(section.policy_kwargs, known) | _normalization(section.normalize, known)
    config = config_from_json(recipe.config, hyperparameters)  # checks the type of each field
    config_to_json(config)  # refuses infinite numbers
    return ZooSettings(
        section=section.section,
        hyperparameters={name: getattr(config, name) for name in hyperparameters},
        steps=section.steps,
        n_envs=section.n_envs,
        backbone="auto" if section.policy is None else BACKBONES[section.policy],
        env_kwargs=section.env_kwargs,
        notes=tuple(notes),
    )


def _of_policy(policy_kwargs: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """The fields of a config that say what SB3's arguments of a policy say."""
    found: dict[str, Any] = {}
    names = {"activation_fn": "activation"}
    for key, value in policy_kwargs.items():
        if value is None:
            continue
        field = names.get(key, key)
        if field not in known or key not in OF_POLICIES:
            listed = ", ".join(name for name in OF_POLICIES if names.get(name, name) in known)
            raise ValueError(f"policy_kwargs: {key} is not supported, only {listed}")
        if key == "net_arch":
            found |= _widths(value, "vf_arch" in known)
        elif key == "activation_fn":
            found[field] = _activation(value)
        else:
            found[field] = value
    return found


def _widths(net_arch: Any, has_critic: bool) -> dict[str, Any]:
    """Widths of the layers, those of actor and critic apart where there are both."""
    parts = {"net_arch": net_arch}
    if has_critic:
        if isinstance(net_arch, list) and len(net_arch) == 1:
            net_arch = net_arch[0]  # as it was written before SB3 1.8
        if isinstance(net_arch, dict) and net_arch.keys() <= {"pi", "vf"}:
            parts = {"net_arch": net_arch.get("pi", []), "vf_arch": net_arch.get("vf", [])}
    for widths in parts.values():
        if not (isinstance(widths, list | tuple) and all(type(width) is int for width in widths)):
            raise ValueError(f"policy_kwargs: net_arch must be a list of widths, not {shown(widths)}")
    return parts


def _activation(name: Any) -> str:
    for ours, activation in ACTIVATIONS.items():
        if activation.__name__ == str(name).rpartition(".")[2]:
            return ours
    raise ValueError(f"policy_kwargs: the activation {shown(name)} is not known; known: {', '.join(ACTIVATIONS)}")


def _normalization(settings: dict[str, Any] | None, known: list[str]) -> dict[str, Any]:
    others = dict(settings or {})
    observations, rewards = (others.pop(name, settings is not None) for name in ("norm_obs", "norm_reward"))
    if others or (rewards and "normalize_reward" not in known):
        what = "normalized rewards are" if not others else f"{', '.join(map(str, others))} is"
        raise ValueError(f"normalize: {what} not supported; {{'norm_obs': True, 'norm_reward': False}} is")
    if observations and "normalize" not in known:
        raise ValueError("normalize: not supported by this algorithm")
    found = {"normalize": True} if observations else {}
    return found | ({"normalize_reward": True} if rewards else {})
