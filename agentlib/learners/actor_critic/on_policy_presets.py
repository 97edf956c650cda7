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
    "Pendulum-v1": {  # the zoo explores by noise that depends on the state
        "steps": 100_000,
        "n_envs": 4,
        "n_steps": 1_024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
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

A2C_PRESETS: dict[str, dict[str, Any]] = {"CartPole-v1": {"steps": 500_000, "n_envs": 8}}
