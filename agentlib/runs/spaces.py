"""Spaces of hyperparameters to search, as plain data.

By the name of a hyperparameter either a list of choices, or a range `{"low": ..., "high": ...}`, whole numbers if both
ends are, with `"log": true` for one that is drawn on a logarithmic scale. `"one_minus": true` means that one minus the
hyperparameter is drawn, such as a discount; `"at_most": NAME` and `"divisor_of": NAME` tie it to another one: the
smaller of both, and the other one over the number that was drawn, rounded down, at least 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Space = Mapping[str, Any]

_WIDTHS = [[64], [64, 64], [256, 256]]
_WIDER = [[64, 64], [256, 256], [400, 300]]
_DISCOUNT = {"low": 1e-3, "high": 0.1, "log": True, "one_minus": True}
_EXPLORATION = {
    "exploration_fraction": {"low": 0.05, "high": 0.5},
    "exploration_final_eps": {"low": 0.01, "high": 0.2},
}

OF_DATA: Space = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "batch_size": [32, 64, 128, 256],
    "l2": {"low": 1e-7, "high": 1e-3, "log": True},
    "label_smoothing": {"low": 0.0, "high": 0.2},
    "dropout": {"low": 0.0, "high": 0.3},
    "weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
}
"""Of learners from data, and of any family that is not below; those that a learner's config has."""
OF_FAMILIES: Mapping[str, Space] = {
    "on_replay": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [32, 64, 128, 256],
        "gamma": _DISCOUNT,
        "train_freq": [1, 4, 16, 64],
        "gradient_steps": {"choices": [1, 2, 4], "divisor_of": "train_freq"},
        "net_arch": _WIDTHS,
        **_EXPLORATION,
    },
    "on_sequences": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [16, 32, 64],
        "gamma": _DISCOUNT,
        **_EXPLORATION,
    },
    "on_table": {"learning_rate": {"low": 0.01, "high": 1.0, "log": True}, "gamma": _DISCOUNT, **_EXPLORATION},
    "on_transitions": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "batch_size": [64, 128, 256],
        "gamma": _DISCOUNT,
        "cql_alpha": {"low": 0.1, "high": 10.0, "log": True},
        "bc_alpha": {"low": 0.5, "high": 10.0, "log": True},
        "expectile": {"low": 0.5, "high": 0.95},
        "beta": {"low": 0.5, "high": 10.0, "log": True},
    },
    "on_rollouts": {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "n_steps": [32, 128, 512, 2048],
        "batch_size": {"choices": [32, 64, 128, 256], "at_most": "n_steps"},
        "n_epochs": [1, 5, 10, 20],
        "gamma": _DISCOUNT,
        "gae_lambda": {"low": 1e-3, "high": 0.2, "log": True, "one_minus": True},
        "ent_coef": {"low": 1e-8, "high": 0.1, "log": True},
        "clip_range": [0.1, 0.2, 0.3],
        "net_arch": _WIDTHS,
    },
}
"""By the name of the function that puts a family's runs together."""

_POWERS = [1, 4, 8, 16, 32, 64, 128, 256, 512]
_FROM_REPLAY: Space = {
    "gamma": [0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999],
    "learning_rate": {"low": 1e-5, "high": 1.0, "log": True},
    "buffer_size": [10_000, 100_000, 1_000_000],
    "tau": [0.001, 0.005, 0.01, 0.02, 0.05, 0.08],
    "train_freq": _POWERS,
    "gradient_steps": {"choices": [1], "divisor_of": "train_freq"},
    "net_arch": _WIDER,
}
_SAC: Space = {
    **_FROM_REPLAY,
    "batch_size": [16, 32, 64, 128, 256, 512, 1024, 2048],
    "learning_starts": [0, 1_000, 10_000, 20_000],
    "log_std_init": {"low": -4.0, "high": 1.0},
}
_TD3: Space = {
    **_FROM_REPLAY,
    "batch_size": [16, 32, 64, 100, 128, 256, 512, 1024, 2048],
    "action_noise": {"low": 0.0, "high": 1.0},
    "action_noise_kind": ["normal", "ornstein-uhlenbeck"],
}
_PPO: Space = {
    "n_steps": [32, 64, 128, 256, 512, 1024, 2048],
    "gamma": {"low": 1e-4, "high": 0.03, "log": True, "one_minus": True},
    "gae_lambda": {"low": 1e-4, "high": 0.1, "log": True, "one_minus": True},
    "learning_rate": {"low": 1e-5, "high": 0.002, "log": True},
    "ent_coef": {"low": 1e-8, "high": 0.1, "log": True},
    "max_grad_norm": {"low": 0.3, "high": 2.0},
    "activation": ["tanh", "relu"],
}
OF_ZOO: Mapping[str, Space] = {
    "DQN": {
        "gamma": _FROM_REPLAY["gamma"],
        "learning_rate": _FROM_REPLAY["learning_rate"],
        "batch_size": [16, 32, 64, 100, 128, 256, 512],
        "buffer_size": [10_000, 50_000, 100_000, 1_000_000],
        "exploration_final_eps": {"low": 0.0, "high": 0.2},
        "exploration_fraction": {"low": 0.0, "high": 0.5},
        "target_update_interval": [1, 1_000, 5_000, 10_000, 15_000, 20_000],
        "learning_starts": [0, 1_000, 5_000, 10_000, 20_000],
        "train_freq": [1, 4, 8, 16, 128, 256, 1_000],
        "gradient_steps": {"choices": [1, 2, 4, 8], "divisor_of": "train_freq"},
        "net_arch": _WIDTHS,
    },
    "SAC": _SAC,
    "TQC": {**_SAC, "n_quantiles": {"low": 5, "high": 50}, "top_quantiles_to_drop_per_net": {"low": 0, "high": 4}},
    "TD3": _TD3,
    "DDPG": _TD3,
    "PPO": {
        **_PPO,
        "batch_size": {"choices": [32, 64, 128, 256, 512], "at_most": "n_steps"},
        "clip_range": [0.1, 0.2, 0.3, 0.4],
        "n_epochs": [1, 5, 10, 20],
        "net_arch": _WIDTHS,
    },
    "A2C": {**_PPO, "net_arch": _WIDTHS[1:]},
}
"""The RL Baselines3 Zoo's (its `hyperparams_opt.py`), by SB3's class. It draws TQC's dropped quantiles up to all but
one of them, and offers TD3 no noise at all, too, which is the lower end of the range here."""
