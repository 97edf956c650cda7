"""Fields that the configs of learners of action values share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from agentlib.backbones import Optimized
from agentlib.core import Linear
from agentlib.core.config import Config, Count, NonNegative, Range, Share, Unit, Whole


@dataclass(frozen=True, kw_only=True)
class Stepping(Config):
    """The order of steps and updates; names and defaults are those of Stable-Baselines3's DQN."""

    learning_starts: Whole = 100
    """Environment steps with random actions before the first update."""
    train_freq: Count = 4
    """Environment steps between updates."""
    gradient_steps: Annotated[int, Range(-1)] = 1
    """Updates after every `train_freq` environment steps; -1 makes as many updates as there were steps."""


@dataclass(frozen=True, kw_only=True)
class Exploring(Stepping):
    """Exploration by random actions among few; names and defaults are those of Stable-Baselines3."""

    exploration_fraction: Unit = 0.1
    """Share of the run over which epsilon, the probability of a random action, falls linearly."""
    exploration_initial_eps: Unit = 1.0
    """Epsilon at the start of the run."""
    exploration_final_eps: Unit = 0.05
    """Epsilon after it has fallen."""


@dataclass(frozen=True, kw_only=True)
class Replayed(Config):
    """The replay of single steps."""

    buffer_size: Count = 1_000_000
    """Capacity of the replay buffer in transitions."""
    prioritized: bool = False
    """Sample transitions in proportion to their errors (Schaul et al. 2016)."""
    priority_exponent: NonNegative = 0.6
    """Exponent alpha of the priorities: 0 samples uniformly, 1 in full proportion to the errors."""
    importance_exponent: Share = Linear(0.4, 1.0)
    """Exponent beta of the importance weights, which correct for prioritized sampling; 1 corrects fully."""


@dataclass(frozen=True, kw_only=True)
class Bellman(Optimized):
    """Updates of action values by a target network; names and defaults are those of Stable-Baselines3."""

    gamma: Unit = 0.99
    """Discount factor per environment step."""
    tau: Unit = 1.0
    """Share of the way that the target network moves at each of its updates; 1 copies the online network."""
    target_update_interval: Count = 10_000
    """Environment steps between updates of the target network."""
    max_grad_norm: NonNegative | None = 10.0
    loss: Literal["huber", "mse"] = "huber"
    """Loss of the temporal-difference errors: Huber's, or their squares."""
    normalize: bool = False
    """Standardize observations by running statistics, which are saved with the agent."""
