"""The interface of a backbone, a network from observations to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from agentlib.backbones.specs import Described

Observation = Any
"""A tensor `(B, ...)`, or a dict or tuple of observations."""
State = Any
"""The state of a network with memory between two steps: a tree of tensors, the batch on the first axis of each."""


class Backbone(Described, ABC):
    """A network from an observation to features `(B, feature_dim)`.

    A class of your own needs no more than `nn.Module`, `forward` and an attribute `feature_dim`; `spec` is what lets
    an agent's file rebuild it.
    """

    feature_dim: int
    """Width of the features."""
    is_sequence = False
    """Whether it has memory: see `SequenceBackbone`."""

    @abstractmethod
    def forward(self, observation: Observation) -> Tensor:
        """Features `(B, feature_dim)` of a batch of observations."""

    def maps(self, observation: Observation) -> list[Tensor]:
        """The outputs between observation and features, in order: maps `(B, C, H, W)`, tokens `(B, T, d)` or layers.

        `forward` pools the last. A network that has nothing in between gives its features alone.
        """
        return [self(observation)]

    def observe(self, observation: Observation) -> None:
        """Takes a batch of observations into the statistics that this network keeps, if any.

        Called where data is collected, never inside an update.
        """


class SequenceBackbone(Backbone):
    """A network with memory: sequences of observations in, features `(B, T, feature_dim)` and the next state out.

    Acting is the case T = 1. A policy over such a backbone has memory too.
    """

    is_sequence = True

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before anything was seen: a tree of tensors `(B, ...)`, on the device of the network."""

    @abstractmethod
    def forward(  # type: ignore[override]
        self, observation: Observation, state: State | None = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Features `(B, T, feature_dim)` of observations `(B, T, ...)`, and the state after the last.

        Args:
            observation: a tensor, or a tree of tensors, with leading axes `(B, T)`.
            state: from the call before; the initial state by default.
            episode_start: `(B, T)` bool; where it is true, the state is reset before this step is read.
        """

    def acted(self, state: State, action: Tensor) -> State:
        """The state once these actions `(B, ...)` were taken; of interest to a network that reads them, too."""
        return state
