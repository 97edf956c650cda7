"""The settings of the rows of docs/benchmarks.md; without imports, so that a process loads only its side."""

from typing import Any

DEFAULTS: dict[str, Any] = {"net_arch": [64, 64]}
ZOO: dict[str, Any] = {
    "net_arch": [256, 256],
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "train_freq": 256,
    "gradient_steps": 128,
    "target_update_interval": 10,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}
"""The RL Zoo's settings for CartPole-v1."""
PONG: dict[str, Any] = {"buffer_size": 5_000, "learning_starts": 400, "train_freq": 4, "batch_size": 32}
DAGGER: dict[str, Any] = {"rounds": 5, "round_steps": 500, "round_episodes": 3, "epochs": 4, "batch_size": 32}
OTHERS = (
    "BC",
    "Classifier",
    "Regressor",
    "AdversarialTraining",
    "VAE",
    "GAN",
    "WGAN",
    "Diffusion",
    "DiffusionBC",
    "SimCLR",
    "MAML",
    "Prototypical",
    "DecisionTransformer",
    "RecurrentDQN",
)
