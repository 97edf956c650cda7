"""The interface of a policy, a backbone and a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Described, Observation


class Policy(Described, ABC):
    """A backbone and a head; `policy(observation)` gives an output, and what to do with it are methods.

    Over a sequence backbone (`is_sequence`) observations are `(B, T, ...)`, else `(B, ...)`. These leading axes are
    those of outputs, actions and log probabilities; the methods below take outputs with any leading axes.

    Args:
        backbone: any network with a `feature_dim`, also one with memory.
    """

    is_stochastic = False
    """Whether there is something to sample from."""

    def __init__(self, backbone: Backbone | nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.is_sequence = bool(getattr(backbone, "is_sequence", False))
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]

    def output_of(self, features: Tensor) -> Tensor:
        """The output `(..., n)` for features `(..., feature_dim)`: that of the `head`."""
        return self.head(features)  # type: ignore[no-any-return, operator]

    @abstractmethod
    def choose(self, output: Tensor) -> Tensor:
        """The best action for each output."""

    def forward(
        self, observation: Observation, state: Any = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """The output for a batch of observations, and the next state (without memory: the state as it came)."""
        if self.is_sequence:
            features, state = self.backbone(observation, state, episode_start)
        else:
            features = self.backbone(observation)
        return self.output_of(features), state

    def initial_state(self, batch_size: int) -> Any:
        """The memory at the start of `batch_size` episodes; None without memory."""
        return self.backbone.initial_state(batch_size) if self.is_sequence else None  # type: ignore[operator]

    def acted(self, state: Any, action: Tensor) -> Any:
        """The memory once these actions `(B, ...)` were taken: some backbones read the last one."""
        return self.backbone.acted(state, action) if hasattr(self.backbone, "acted") else state  # type: ignore[operator]

    @torch.no_grad()
    def observe(self, observation: Observation) -> None:
        """Takes a batch of observations into the backbone's running statistics, if it keeps any."""
        if hasattr(self.backbone, "observe"):
            self.backbone.observe(observation)  # type: ignore[operator]


class StochasticPolicy(Policy):
    """A policy whose output is a distribution over actions."""

    is_stochastic = True

    @abstractmethod
    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An action drawn for each output, by torch's default generator or one of your own."""

    @abstractmethod
    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Log probability (of real numbers: density) of each action, `(...)`: one for all its components."""

    @abstractmethod
    def entropy(self, output: Tensor) -> Tensor:
        """Entropy `(...)` of each output's distribution, in nats."""


def state_after(policy: nn.Module, state: Any, action: Tensor) -> Any:
    """The state of any policy once these actions were taken; a policy of your own need not have `acted`."""
    return policy.acted(state, action) if hasattr(policy, "acted") else state  # type: ignore[operator]


def is_policy(network: nn.Module) -> bool:
    """Whether a network is a whole policy, and not only a backbone."""
    return hasattr(network, "choose")


def require_no_memory(network: nn.Module, learner: str) -> None:
    """Raises ValueError if a network has memory, for learners that see single examples."""
    if getattr(network, "is_sequence", False):
        raise ValueError(f"{learner} learns from single examples: choose a backbone without memory")
