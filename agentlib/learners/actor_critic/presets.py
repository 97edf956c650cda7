"""Tuned settings by environment: those of the RL Baselines3 Zoo, so that results can be compared with it."""

from __future__ import annotations

from typing import Any

from agentlib.core import Linear

_MUJOCO: dict[str, dict[str, Any]] = {
    f"{name}-v5": {"steps": 1_000_000, "learning_starts": 10_000}
    for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d", "Swimmer", "Reacher")
}
_MUJOCO["Humanoid-v5"]["steps"] = 2_000_000
_SMALL_MUJOCO: dict[str, Any] = {"steps": 50_000, "learning_starts": 1_000}
"""For the two pendulums, which need few steps."""
_PENDULUMS = ("InvertedPendulum-v5", "InvertedDoublePendulum-v5")
_TUNED: dict[str, Any] = {
    **{"learning_rate": Linear(7.3e-4, 0.0), "tau": 0.01, "learning_starts": 10_000, "net_arch": (400, 300)},
}

SAC_PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 20_000, "learning_rate": 1e-3},
    "LunarLanderContinuous-v3": {"steps": 500_000, **_TUNED},
    "BipedalWalkerHardcore-v3": {"steps": 10_000_000, "ent_coef": 0.005, **_TUNED},
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
    **_MUJOCO,
    "Swimmer-v5": {"gamma": 0.999, **_MUJOCO["Swimmer-v5"]},
    **dict.fromkeys(_PENDULUMS, _SMALL_MUJOCO),
}
TQC_NUMBERS: dict[str, Any] = {"n_quantiles": 25}
"""The numbers of SAC that make it TQC."""
TQC_PRESETS: dict[str, dict[str, Any]] = {
    "": TQC_NUMBERS,
    **{env: {**settings, **TQC_NUMBERS} for env, settings in SAC_PRESETS.items()},
}
TQC_PRESETS["Hopper-v5"]["top_quantiles_to_drop_per_net"] = 5
TQC_PRESETS["BipedalWalkerHardcore-v3"] |= {"steps": 2_000_000, "ent_coef": "auto"}
_DETERMINISTIC: dict[str, Any] = {"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000}
TD3_PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"steps": 20_000, **_DETERMINISTIC},
    "LunarLanderContinuous-v3": {"steps": 300_000, **_DETERMINISTIC},
    "BipedalWalker-v3": {"steps": 1_000_000, **_DETERMINISTIC},
    "BipedalWalkerHardcore-v3": {"steps": 10_000_000, "learning_starts": 10_000, "learning_rate": Linear(7e-4, 0.0)},
    "MountainCarContinuous-v0": {"steps": 300_000, "action_noise": 0.5, "action_noise_kind": "ornstein-uhlenbeck"},
    **_MUJOCO,
    "Swimmer-v5": {"gamma": 0.9999, **_MUJOCO["Swimmer-v5"]},
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
