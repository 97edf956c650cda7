"""Tuned settings of PPO and A2C by environment: those of the RL Baselines3 Zoo, so that results can be compared."""

from __future__ import annotations

from typing import Any

from agentlib.core import Linear

_NORMALIZED: dict[str, Any] = {"normalize": True, "normalize_reward": True}
_LANDER: dict[str, Any] = {
    "steps": 1_000_000,
    "n_envs": 16,
    "n_steps": 1_024,
    "batch_size": 64,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "n_epochs": 4,
    "ent_coef": 0.01,
}

_WIDE: dict[str, Any] = {
    **{"net_arch": (256, 256), "vf_arch": (256, 256), "activation": "relu", "log_std_init": -2.0, "ortho_init": False},
    **_NORMALIZED,
}
"""Networks for larger robots."""
_NAMES: tuple[str, ...] = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "max_grad_norm")
_NAMES += ("vf_coef", "ent_coef", "learning_rate")
_NUMBERS: dict[str, tuple[float, ...]] = {
    "HalfCheetah-v5": (512, 64, 20, 0.98, 0.92, 0.1, 0.8, 0.58096, 0.000401762, 2.0633e-05),
    "Hopper-v5": (512, 32, 5, 0.999, 0.99, 0.2, 0.7, 0.835671, 0.00229519, 9.80828e-05),
    "Humanoid-v5": (512, 256, 5, 0.95, 0.9, 0.3, 2.0, 0.431892, 0.00238306, 3.56987e-05),
    "HumanoidStandup-v5": (512, 32, 20, 0.99, 0.9, 0.3, 0.7, 0.430793, 3.62109e-06, 2.55673e-05),
    "Walker2d-v5": (512, 32, 20, 0.99, 0.95, 0.1, 1.0, 0.871923, 0.000585045, 5.05041e-05),
    "Reacher-v5": (512, 32, 5, 0.9, 1.0, 0.3, 0.9, 0.950368, 7.52585e-08, 0.000104019),
    # the zoo has batches of 64 and 512 in these, which are more than a rollout has
    "InvertedPendulum-v5": (32, 32, 5, 0.999, 0.9, 0.4, 0.3, 0.19816, 1.37976e-07, 0.000222425),
    "InvertedDoublePendulum-v5": (128, 128, 10, 0.98, 0.8, 0.4, 0.5, 0.695929, 1.05057e-06, 0.000155454),
}
"""By `_NAMES`; the zoo has them for earlier versions of these environments."""
_LARGE = ("HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5")
_MUJOCO: dict[str, dict[str, Any]] = {
    env: {
        "steps": 10_000_000 if env.startswith("Humanoid") else 1_000_000,
        **dict(zip(_NAMES, numbers, strict=True)),
        **(_WIDE if env in _LARGE else _NORMALIZED),
    }
    for env, numbers in _NUMBERS.items()
}

PPO_PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 100_000,
        "n_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "learning_rate": Linear(1e-3, 0.0),
        "clip_range": Linear(0.2, 0.0),
    },
    "Pendulum-v1": {
        "steps": 100_000,
        "n_envs": 4,
        "n_steps": 1_024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
    "Acrobot-v1": {
        "steps": 1_000_000,
        "n_envs": 16,
        "n_steps": 256,
        "gae_lambda": 0.94,
        "gamma": 0.99,
        "n_epochs": 4,
        **_NORMALIZED,
    },
    "MountainCar-v0": {
        "steps": 1_000_000,
        "n_envs": 16,
        "n_steps": 16,
        "gae_lambda": 0.98,
        "gamma": 0.99,
        "n_epochs": 4,
        **_NORMALIZED,
    },
    "MountainCarContinuous-v0": {
        "steps": 20_000,
        "n_envs": 1,
        "n_steps": 8,
        "batch_size": 8,  # the zoo has 256, which is more than a rollout has
        "gae_lambda": 0.9,
        "gamma": 0.9999,
        "n_epochs": 10,
        "ent_coef": 0.00429,
        "vf_coef": 0.19,
        "max_grad_norm": 5.0,
        "learning_rate": 7.77e-5,
        "clip_range": 0.1,
        "use_sde": True,
        "log_std_init": -3.29,
        "ortho_init": False,
        **_NORMALIZED,
    },
    "LunarLander-v3": _LANDER,
    "LunarLanderContinuous-v3": _LANDER,
    "BipedalWalker-v3": {
        "steps": 5_000_000,
        "n_envs": 32,
        "n_steps": 2_048,
        "batch_size": 64,
        "gae_lambda": 0.95,
        "gamma": 0.999,
        "n_epochs": 10,
        "learning_rate": 3e-4,
        "clip_range": 0.18,
        **_NORMALIZED,
    },
    "BipedalWalkerHardcore-v3": {
        "steps": 100_000_000,
        "n_envs": 16,
        "n_steps": 2_048,
        "batch_size": 64,
        "gae_lambda": 0.95,
        "gamma": 0.99,
        "n_epochs": 10,
        "ent_coef": 0.001,
        "learning_rate": Linear(2.5e-4, 0.0),
        "clip_range": Linear(0.2, 0.0),
        **_NORMALIZED,
    },
    "atari": {
        "steps": 10_000_000,
        "n_envs": 8,
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "learning_rate": Linear(2.5e-4, 0.0),
        "clip_range": Linear(0.1, 0.0),
        "vf_coef": 0.5,
        "ent_coef": 0.01,
    },
    **_MUJOCO,
    "Ant-v5": {"steps": 1_000_000, **_NORMALIZED},
    "Swimmer-v5": {
        **{"steps": 1_000_000, "n_envs": 4, "n_steps": 1_024, "batch_size": 256, "learning_rate": 6e-4},
        **{"gae_lambda": 0.98, "gamma": 0.9999, **_NORMALIZED},
    },
}

_NOISY: dict[str, Any] = {
    "n_steps": 8,
    "gae_lambda": 0.9,
    "vf_coef": 0.4,
    "use_sde": True,
    "log_std_init": -2.0,
    "ortho_init": False,
    **_NORMALIZED,
}
"""For real-valued actions."""

A2C_PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"steps": 500_000, "n_envs": 8},
    "Acrobot-v1": {"steps": 500_000, "n_envs": 16, **_NORMALIZED},
    "MountainCar-v0": {"steps": 1_000_000, "n_envs": 16, **_NORMALIZED},
    "LunarLander-v3": {
        "steps": 200_000,
        "n_envs": 8,
        "gamma": 0.995,
        "learning_rate": Linear(8.3e-4, 0.0),
        "ent_coef": 1e-5,
    },
    "Pendulum-v1": {"steps": 1_000_000, "n_envs": 8, "gamma": 0.9, "learning_rate": Linear(7e-4, 0.0), **_NOISY},
    "LunarLanderContinuous-v3": {"steps": 5_000_000, "n_envs": 4, "learning_rate": Linear(7e-4, 0.0), **_NOISY},
    "BipedalWalker-v3": {"steps": 5_000_000, "n_envs": 16, "learning_rate": Linear(9.6e-4, 0.0), **_NOISY},
    "BipedalWalkerHardcore-v3": {
        **{"steps": 200_000_000, "n_envs": 32, "learning_rate": Linear(8e-4, 0.0), "ent_coef": 0.001},
        **_NOISY,
    },
    "MountainCarContinuous-v0": {
        "steps": 100_000,
        "n_envs": 4,
        "n_steps": 100,
        "use_sde": True,
        "sde_sample_freq": 16,
        "ortho_init": False,
        **_NORMALIZED,
    },
    **{f"{name}-v5": {"steps": 1_000_000, **_NORMALIZED} for name in ("HalfCheetah", "Ant", "Hopper", "Walker2d")},
    "Humanoid-v5": {"steps": 2_000_000, **_NORMALIZED},
    "Swimmer-v5": {"steps": 1_000_000, "gamma": 0.9999, **_NORMALIZED},
}
