"""Tuned settings of Q-learning by environment.

Those of CartPole, MountainCar, LunarLander, Acrobot and Atari are the RL Baselines3 Zoo's, so that results can be
compared with it; the others are our own, chosen on seed 100, or 100 and 101. `agentlib list presets` shows the returns
on seeds 0 to 4 of those that `benchmarks/evidence/presets.py` has measured.
"""

from __future__ import annotations

from typing import Any

from agentlib.core import Linear

_LANDER: dict[str, Any] = {
    "steps": 100_000,
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

DQN_PRESETS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 50_000,
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
        "steps": 120_000,
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
        "steps": 10_000_000,
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
    "FrozenLake-v1": {
        "steps": 30_000,
        "learning_rate": Linear(1e-3, 0.0),
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "target_update_interval": 500,
        "exploration_fraction": 0.5,
    },
    "Taxi-v4": {
        "steps": 60_000,
        "learning_rate": Linear(3e-2, 0.0),
        "batch_size": 256,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "target_update_interval": 100,
        "exploration_fraction": 0.2,
        "net_arch": (),
    },
    "CliffWalking-v1": {
        "steps": 20_000,
        "learning_rate": Linear(3e-2, 0.0),
        "batch_size": 64,
        "buffer_size": 50_000,
        "learning_starts": 500,
        "target_update_interval": 100,
        "exploration_fraction": 0.2,
        "net_arch": (),
    },
    "Blackjack-v1": {
        "steps": 50_000,
        "learning_rate": Linear(1e-3, 0.0),
        "batch_size": 128,
        "buffer_size": 100_000,
        "learning_starts": 1_000,
        "gamma": 1.0,
        "target_update_interval": 500,
        "exploration_fraction": 1.0,
        "exploration_final_eps": 0.1,
    },
    "minigrid": {
        "steps": 25_000,
        "learning_rate": 1e-3,
        "batch_size": 64,
        "buffer_size": 50_000,
        "learning_starts": 1_000,
        "n_steps": 3,
        "target_update_interval": 500,
        "exploration_fraction": 0.5,
    },
    "agentlib/Catch-v0": {
        "steps": 50_000,
        "learning_rate": Linear(5e-4, 0.0),
        "buffer_size": 50_000,
        "learning_starts": 1_000,
        "target_update_interval": 500,
        "exploration_fraction": 0.2,
    },
}

RAINBOW_OPTIONS: dict[str, Any] = {
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

RAINBOW_PRESETS: dict[str, dict[str, Any]] = {
    "": RAINBOW_OPTIONS,
    **{name: preset | RAINBOW_OPTIONS for name, preset in DQN_PRESETS.items()},
}
RAINBOW_PRESETS["agentlib/Catch-v0"] |= {"head_arch": (128,), "n_quantiles": 32}  # for speed

Q_TABLE_PRESETS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {"steps": 60_000},
    "Taxi-v4": {"steps": 30_000},
    "CliffWalking-v1": {"steps": 10_000},
    "Blackjack-v1": {"steps": 100_000, "gamma": 1.0, "exploration_fraction": 1.0, "exploration_final_eps": 0.1},
}
