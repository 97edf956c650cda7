"""Fields that the configs of Q-learning share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from agentlib.backbones import Optimized
from agentlib.core.config import Config, Count, NonNegative, Range, Unit, Whole


@dataclass(frozen=True, kw_only=True)
class Exploring(Config):
    """Exploration and the order of steps and updates; names and defaults are those of Stable-Baselines3."""

    gamma: Unit = 0.99
    """Discount factor per environment step."""
    learning_starts: Whole = 100
    """Environment steps with random actions before the first update."""
    train_freq: Count = 4
    """Environment steps between updates."""
    gradient_steps: Annotated[int, Range(-1)] = 1
    """Updates after every `train_freq` environment steps; -1 makes as many updates as there were steps."""
    exploration_fraction: Unit = 0.1
    """Share of the run over which epsilon, the probability of a random action, falls linearly."""
    exploration_initial_eps: Unit = 1.0
    """Epsilon at the start of the run."""
    exploration_final_eps: Unit = 0.05
    """Epsilon after it has fallen."""


@dataclass(frozen=True, kw_only=True)
class QLearning(Exploring, Optimized):
    """Exploration, updates and losses of deep Q-learning; names and defaults are those of Stable-Baselines3."""

    tau: Unit = 1.0
    """Share of the way that the target network moves at each of its updates; 1 copies the online network."""
    target_update_interval: Count = 10_000
    """Environment steps between updates of the target network."""
    max_grad_norm: NonNegative | None = 10.0
    loss: Literal["huber", "mse"] = "huber"
    """Loss of the temporal-difference errors: Huber's, or their squares."""
    normalize: bool = False
    """Standardize observations by running statistics, which are saved with the agent."""
