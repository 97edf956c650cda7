"""What a backbone is: a network from observations to features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

Observation = Any
"""A tensor `(B, ...)`, or a dict or tuple of observations."""
Spec = dict[str, Any]
"""`{"name": ..., "arguments": {...}}`, JSON-able: enough to build the module again."""


class Backbone(nn.Module, ABC):
    """A network from an observation to features `(B, feature_dim)`.

    A class of your own needs no more than `nn.Module`, `forward` and an attribute `feature_dim`; `spec` is what lets
    an agent's file rebuild it.
    """

    feature_dim: int
    """Width of the features."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The name and the JSON-able arguments that rebuild this network."""

    @abstractmethod
    def forward(self, observation: Observation) -> Tensor:
        """Features `(B, feature_dim)` of a batch of observations."""

    def maps(self, observation: Observation) -> list[Tensor]:
        """What lies between observation and features, first to last: maps `(B, C, H, W)`, tokens `(B, T, d)` or layers.

        `forward` pools the last. A network that has nothing in between gives its features alone.
        """
        return [self(observation)]

    def observe(self, observation: Observation) -> None:
        """Takes a batch of observations into the statistics that this network keeps, if any.

        Called where data is collected, never inside an update.
        """


def dtype_of(network: nn.Module) -> torch.dtype:
    """The floating-point type that a network computes in: that of its first parameter, float32 without any."""
    return next((parameter.dtype for parameter in network.parameters()), torch.float32)
