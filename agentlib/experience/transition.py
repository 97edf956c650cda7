"""The types that a replay buffer takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.schedules import Clock


class Transition(NamedTuple):
    """A batch of transitions. B is the batch size; observations are trees of tensors."""

    observation: Any
    """`(B, *shape)` in each leaf."""
    action: Tensor
    """`(B,)` or `(B, *shape)`: indices from 0 for Discrete actions."""
    reward: Tensor
    """`(B,)` float32: the discounted sum over the n steps."""
    next_observation: Any
    """`(B, *shape)` in each leaf: after the n steps, or the final observation of the episode."""
    terminated: Tensor
    """`(B,)` float32, 1 where the episode ended within the n steps; not where it was only cut off."""
    discount: Tensor
    """`(B,)` float32: gamma to the power of the steps that were made, for the value of `next_observation`."""
    weight: Tensor
    """`(B,)` float32: importance weights of prioritized sampling, else 1."""
    index: Tensor  # type: ignore[assignment] # hides tuple.index
    """`(B,)` int64: where the transitions lie in the buffer."""
    clock: Clock = Clock(0, 0, 0.0)
    mask: Tensor | None = None
    """`(B, A)` bool: the legal actions at `observation`; None where the environment gives no masks."""
    next_mask: Tensor | None = None
    """`(B, A)` bool: the legal actions at `next_observation`; all of them after the end of the task, where nothing is
    chosen."""


class Episode(NamedTuple):
    """One recorded episode of T steps."""

    observations: Any
    """`(T + 1, *shape)` in each leaf, the final observation included."""
    actions: NDArray[Any]
    """`(T, ...)`"""
    rewards: NDArray[Any]
    """`(T,)`"""
    terminated: bool = False
    """Whether the last step ended the task; otherwise the episode was cut off there."""
    action_masks: NDArray[Any] | None = None
    """`(T + 1, A)`: the legal actions at each observation; all of them without it."""


class Minibatch(NamedTuple):
    """A batch of steps of one rollout; observations are trees of tensors."""

    observation: Any
    """`(B, *shape)` in each leaf."""
    action: Tensor
    """`(B,)` or `(B, *shape)`: indices from 0 for Discrete actions; real numbers before they are cut to bounds."""
    log_prob: Tensor
    """`(B,)` float32: of the action, by the policy that took it."""
    value: Tensor
    """`(B,)` float32: of the observation, by the critic of that time."""
    advantage: Tensor
    """`(B,)` float32"""
    returns: Tensor
    """`(B,)` float32: advantage and value together, which the critic learns."""
    weight: Tensor
    """`(B,)` float32, of sum 1: 0 where a sample only fills a batch that has fewer, the same number elsewhere."""
    clock: Clock = Clock(0, 0, 0.0)
    mask: Tensor | None = None
    """`(B, A)` bool: the legal actions; None where the environment gives no masks."""
    state: Any = None
    """With memory: the state before the first step of each of S sequences of L steps, a tree of tensors `(S, ...)`.
    Observations are `(S, L, *shape)` then, and B = S L, one sequence behind the other."""
    episode_start: Tensor | None = None
    """With memory, `(S, L)` bool: where it is reset before the step is read."""
