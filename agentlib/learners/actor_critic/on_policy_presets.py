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
    "Pendulum-v1": {"steps": 1_000_000, "n_envs": 8, "learning_rate": Linear(7e-4, 0.0), **_NOISY},
    "LunarLanderContinuous-v3": {"steps": 5_000_000, "n_envs": 4, "learning_rate": Linear(7e-4, 0.0), **_NOISY},
    "BipedalWalker-v3": {"steps": 5_000_000, "n_envs": 16, "learning_rate": Linear(9.6e-4, 0.0), **_NOISY},
    "MountainCarContinuous-v0": {
        "steps": 100_000,
        "n_envs": 4,
        "n_steps": 100,
        "use_sde": True,
        "sde_sample_freq": 16,
        "ortho_init": False,
        **_NORMALIZED,
    },
}
