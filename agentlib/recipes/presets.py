"""Tuned settings for known environments and data sets, selected when an algorithm is named and printed when they are.

An entry holds fields of the algorithm's config, and `steps`, the length of the run. The numbers for DQN are those of
the RL Baselines3 Zoo, so that results can be compared with it. "rainbow" is DQN with all options on; for a known
environment it starts from DQN's settings.
"""

from __future__ import annotations

from typing import Any

from agentlib.backbones import Cosine, Linear

_LANDER: dict[str, Any] = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "net_arch": (256, 256),
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "recurrent_dqn": {
        "agentlib/CartPoleNoVel-v0": {
            "steps": 250_000,
            "learning_rate": Linear(1e-3, 2e-5),
            "reward_scale": 0.01,
            "exploration_fraction": 0.12,
            "net_arch": (64,),
        },
    },
    "dqn": {
        "CartPole-v1": {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "net_arch": (256, 256),
        },
        "MountainCar-v0": {
            "learning_rate": 4e-3,
            "batch_size": 128,
            "buffer_size": 10_000,
            "learning_starts": 1_000,
            "gamma": 0.98,
            "target_update_interval": 600,
            "train_freq": 16,
            "gradient_steps": 8,
            "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07,
            "net_arch": (256, 256),
        },
        "LunarLander-v3": _LANDER,
        "Acrobot-v1": _LANDER,
        "atari": {
            "learning_rate": 1e-4,
            "batch_size": 32,
            "buffer_size": 100_000,
            "learning_starts": 100_000,
            "target_update_interval": 1_000,
            "train_freq": 4,
            "gradient_steps": 1,
            "exploration_fraction": 0.1,
            "exploration_final_eps": 0.01,
        },
        "agentlib/Catch-v0": {
            "learning_rate": Linear(5e-4, 0.0),
            "buffer_size": 50_000,
            "learning_starts": 1_000,
            "target_update_interval": 500,
            "exploration_fraction": 0.2,
        },
    },
    "rainbow": {"agentlib/Catch-v0": {"head_arch": (128,), "n_quantiles": 32}},  # for speed
    "bc": {"MountainCar-v0": {"epochs": 50}},
    "maml": {
        "digits": {"loss": "cross_entropy", "held_out": 0.5, "shots": 1, "queries": 5, "batch_size": 8},
        "glyphs": {"loss": "cross_entropy", "shots": 1, "queries": 5, "batch_size": 8},
    },
    "prototypical": {"digits": {"ways": 5, "held_out": 0.5}},
    "vae": {
        "digits": {"likelihood": "bernoulli", "threshold": 0.5, "validation": 0.0, "steps": 4_000},
    },
    "gan": {
        "digits": {"conditional": True},
    },
    "wgan": {name: {"penalty": 0.1} for name in ("8gaussians", "25gaussians", "swiss_roll", "two_moons")},
    "diffusion": {
        "digits": {"clip": True, "net_arch": (256, 256, 256), "batch_size": 128},
        "shapes": {"clip": True, "batch_size": 64},
    },
    "classifier": {
        "digits": {"learning_rate": Cosine(2e-3), "steps": 1_000},
        "breast_cancer": {"net_arch": (), "l2": 1e-3, "steps": 1_000},
    },
    "regressor": {
        "diabetes": {"net_arch": (), "l2": 4e-3, "learning_rate": 3e-3, "steps": 1_000},
    },
    "adversarial": {
        "digits": {"epsilon": 0.15, "learning_rate": Cosine(2e-3), "steps": 600},
    },
}

RAINBOW: dict[str, Any] = {
    "double": True,
    "dueling": True,
    "distributional": "quantile",  # unlike c51's atoms, quantiles need no range of returns
    "noisy": True,
    "exploration_initial_eps": 0.0,  # the noise explores
    "exploration_final_eps": 0.0,
    "prioritized": True,
    "priority_exponent": 0.5,
    "n_steps": 3,
}
"""DQN's options, all on (Hessel et al. 2018, arXiv:1710.02298)."""


def is_atari(env_id: str) -> bool:
    """Whether an id names an Atari game."""
    return env_id.startswith("ALE/") or env_id.endswith("NoFrameskip-v4")


def preset_for(name: str, key: str | None) -> dict[str, Any]:
    """The settings of an algorithm for an environment's id or a data set's name; empty where there are none."""
    return {setting: value for setting, value in _entry(name, key).items() if setting != "steps"}


def preset_steps(name: str, key: str | None) -> int | None:
    """The length of a run in such a preset, if it has one."""
    steps: int | None = _entry(name, key).get("steps")
    return steps


def _entry(name: str, key: str | None) -> dict[str, Any]:
    if name == "rainbow":
        return _entry("dqn", key) | RAINBOW | _own_entry(name, key)
    return _own_entry(name, key)


def _own_entry(name: str, key: str | None) -> dict[str, Any]:
    presets = PRESETS.get(name, {})
    if key is not None and is_atari(key):
        return presets.get("atari", {})
    return presets.get(key or "", {})
