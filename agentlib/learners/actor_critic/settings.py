"""Fields that configs of actors with critics share, and the check of their action spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from gymnasium import spaces

from agentlib.backbones import Optimized
from agentlib.core import Linear
from agentlib.core.config import Count, NonNegative, Range, Rate, Share, Unit, Whole


@dataclass(frozen=True, kw_only=True)
class StateDependentNoise(Optimized):
    """Exploration of PPO, A2C and SAC in real-valued actions; names and defaults are Stable-Baselines3's."""

    use_sde: bool = False
    """Explore by noise that depends on the state and is kept for several steps (gSDE, Raffin et al. 2022)."""
    sde_sample_freq: Annotated[int, Range(-1)] = -1
    """Steps after which this noise is drawn again within a rollout; -1 draws it at the start of each alone."""


@dataclass(frozen=True, kw_only=True)
class OffPolicy(Optimized):
    """Replay, exploration and targets of learners with critics; names and defaults are Stable-Baselines3's."""

    learning_rate: Rate = 3e-4
    gamma: Unit = 0.99
    """Discount factor per environment step."""
    buffer_size: Count = 1_000_000
    """Capacity of the replay buffer in transitions."""
    batch_size: Count = 256
    """Transitions per update."""
    learning_starts: Whole = 100
    """Environment steps with random actions before the first update."""
    train_freq: Count = 1
    """Environment steps between updates."""
    gradient_steps: Annotated[int, Range(-1)] = 1
    """Updates after every `train_freq` environment steps; -1 makes as many updates as there were steps."""
    tau: Unit = 0.005
    """Share of the way that the target networks move at each of their updates."""
    n_critics: Count = 2
    """Number of critics, of which the smallest value counts."""
    net_arch: tuple[int, ...] | None = (256, 256)
    """Widths of the hidden layers of the policy and of each critic."""
    n_steps: Count = 1
    """Steps of the return before bootstrapping."""
    action_noise: NonNegative = 0.0
    """Standard deviation of normal noise on the actions while training, in units of half the range of the bounds."""
    prioritized: bool = False
    """Sample transitions in proportion to their errors (Schaul et al. 2016)."""
    priority_exponent: NonNegative = 0.6
    """Exponent alpha of the priorities: 0 samples uniformly, 1 in full proportion to the errors."""
    importance_exponent: Share = Linear(0.4, 1.0)
    """Exponent beta of the importance weights, which correct for prioritized sampling; 1 corrects fully."""
    n_sampled_goal: Whole = 0
    """Relabelled transitions for each real one, in environments with goals (hindsight replay); 0 relabels none."""
    goal_selection_strategy: Literal["future", "final", "episode"] = "future"
    """Where a relabelled goal was reached: later in the episode, at its end, or at any time in it."""
    max_grad_norm: NonNegative | None = None


def require_bounded(learner: str, space: spaces.Space[Any]) -> spaces.Box:
    """The action space, if it is a Box with finite bounds.

    Raises:
        ValueError: it is another one; the message names learners that fit.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{learner} needs real-valued actions, and this environment has {space}. Learners that fit: dqn, ppo"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise ValueError(
            f"{learner} needs finite bounds of the actions, and this environment has {space}: wrap it in "
            "gymnasium.wrappers.RescaleAction, or clip its actions and give it an action space with bounds"
        )
    return space
