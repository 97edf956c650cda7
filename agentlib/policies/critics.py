"""Values of real-valued actions: an ensemble of networks Q_i(s, a)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.choice import backbone_for


class Critics(nn.Module):
    """Several critics, each with a network of its own.

    Args:
        backbones: networks of pairs `(observation, action)`, the action flat and between -1 and 1, as
            `agentlib.policies.continuous.Bounds.relative` gives it.
    """

    def __init__(self, backbones: Sequence[nn.Module]) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.heads = nn.ModuleList(nn.Linear(int(backbone.feature_dim), 1) for backbone in backbones)  # type: ignore[arg-type]

    @classmethod
    def for_spaces(
        cls,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        n_critics: int = 2,
        net_arch: Sequence[int] | None = (256, 256),
    ) -> Critics:
        """Critics for any observations: an encoder of each part, the action beside it, and layers of these widths."""
        action = spaces.Box(-1.0, 1.0, (int(np.prod(action_space.shape)),))
        pair = spaces.Tuple((observation_space, action))
        return cls([backbone_for(pair, "auto", net_arch) for _ in range(n_critics)])

    def forward(self, observation: Any, action: Tensor) -> Tensor:
        """The values `(n, B)` of actions `(B, d)`, by each of the n critics."""
        return torch.stack([self.value(number, observation, action) for number in range(len(self.heads))])

    def value(self, number: int, observation: Any, action: Tensor) -> Tensor:
        """The values `(B,)` by one critic."""
        values: Tensor = self.heads[number](self.backbones[number]((observation, action)))  # (B, 1)
        return values[:, 0]
