"""Tuned settings by environment: those of the RL Baselines3 Zoo, so that results can be compared with it."""

from __future__ import annotations

from typing import Any

from agentlib.core import Linear

_MUJOCO = ("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Walker2d-v5", "Swimmer-v5", "Reacher-v5")
_SMALL_MUJOCO: dict[str, Any] = {"steps": 50_000, "learning_starts": 1_000}
"""For the two pendulums, which need few steps."""
_PENDULUMS = ("InvertedPendulum-v5", "InvertedDoublePendulum-v5")

SAC_PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 20_000, "learning_rate": 1e-3},
    "LunarLanderContinuous-v3": {
        "steps": 500_000,
        "learning_rate": Linear(7.3e-4, 0.0),
        "tau": 0.01,
        "learning_starts": 10_000,
        "net_arch": (400, 300),
    },
    "BipedalWalker-v3": {
        "steps": 500_000,
        "learning_rate": 7.3e-4,
        "buffer_size": 300_000,
        "gamma": 0.98,
        "tau": 0.02,
        "train_freq": 64,
        "gradient_steps": 64,
        "learning_starts": 10_000,
        "net_arch": (400, 300),
        "use_sde": True,
    },
    "MountainCarContinuous-v0": {
        "steps": 50_000,
        "buffer_size": 50_000,
        "batch_size": 512,
        "ent_coef": 0.1,
        "gamma": 0.9999,
        "tau": 0.01,
        "train_freq": 32,
        "gradient_steps": 32,
        "learning_starts": 0,
        "net_arch": (64, 64),
        "use_sde": True,
        "log_std_init": -3.67,
    },
    **{env: {"steps": 1_000_000, "learning_starts": 10_000} for env in _MUJOCO},
    **dict.fromkeys(_PENDULUMS, _SMALL_MUJOCO),
}
TQC_NUMBERS: dict[str, Any] = {"n_quantiles": 25}
"""The numbers of SAC that make it TQC."""
TQC_PRESETS: dict[str, dict[str, Any]] = {
    "": TQC_NUMBERS,
    **{env: {**settings, **TQC_NUMBERS} for env, settings in SAC_PRESETS.items()},
}
_DETERMINISTIC: dict[str, Any] = {"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000}
TD3_PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 20_000, **_DETERMINISTIC},
    "LunarLanderContinuous-v3": {"steps": 300_000, **_DETERMINISTIC},
    **{env: {"steps": 1_000_000, "learning_starts": 10_000} for env in _MUJOCO},
    **dict.fromkeys(_PENDULUMS, _SMALL_MUJOCO),
}
DDPG_NUMBERS: dict[str, Any] = {"n_critics": 1, "policy_delay": 1, "target_policy_noise": 0.0}
"""The numbers of TD3 that make it DDPG."""
DDPG_PRESETS: dict[str, dict[str, Any]] = {
    "": DDPG_NUMBERS,
    **{env: {**settings, **DDPG_NUMBERS} for env, settings in TD3_PRESETS.items()},
}
DROQ_NUMBERS: dict[str, Any] = {
    "dropout_rate": 0.01,
    "critic_norm": "layer",
    "target_subset": 2,
    "train_freq": 1,
    "gradient_steps": 20,
    "policy_delay": 20,
}
"""The numbers of SAC that make it DroQ: both critics for the target, and one update of the policy for each step."""
DROQ_PRESETS: dict[str, dict[str, Any]] = {
    "": DROQ_NUMBERS,  # in known environments a quarter of SAC's steps, since each has 20 updates
    **{env: {**settings, **DROQ_NUMBERS, "steps": settings["steps"] // 4} for env, settings in SAC_PRESETS.items()},
}
CROSSQ_BUILT_IN: dict[str, Any] = {"critic_norm": "batch_renorm", "target_networks": False, "adam_beta1": 0.5}
"""The numbers of SAC that make it CrossQ, whatever the environment."""
CROSSQ_NUMBERS: dict[str, Any] = {
    **CROSSQ_BUILT_IN,
    "learning_rate": 1e-3,
    "policy_delay": 3,
    "qf_arch": (1024, 1024),
}
"""These, and sb3-contrib's defaults for it."""
CROSSQ_PRESETS: dict[str, dict[str, Any]] = {
    "": CROSSQ_NUMBERS,
    **{env: {**settings, **CROSSQ_NUMBERS} for env, settings in SAC_PRESETS.items()},
}
