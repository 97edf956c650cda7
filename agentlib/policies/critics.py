"""Values of real-valued actions: an ensemble of networks Q_i(s, a), of numbers or of quantiles of the return."""

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
        backbones: networks of pairs `(observation, action)`; real-valued actions are flat and between -1 and 1, as
            `agentlib.policies.continuous.Bounds.relative` gives them.
        n_quantiles: how many quantiles of the return each gives, at the midpoints of equal shares; None for its mean.
    """

    def __init__(self, backbones: Sequence[nn.Module], n_quantiles: int | None = None) -> None:
        super().__init__()
        self.backbones, self.n_quantiles = nn.ModuleList(backbones), n_quantiles
        widths = [int(backbone.feature_dim) for backbone in backbones]  # type: ignore[arg-type]
        self.heads = nn.ModuleList(nn.Linear(width, n_quantiles or 1) for width in widths)

    @classmethod
    def for_spaces(
        cls,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n_critics: int = 2,
        net_arch: Sequence[int] | None = (256, 256),
        n_quantiles: int | None = None,
    ) -> Critics:
        """Critics for any observations: an encoder of each part, the action beside it, and layers of these widths.

        Real-valued actions are flat and between -1 and 1, discrete ones are indices.
        """
        action = action_space
        if isinstance(action, spaces.Box):
            action = spaces.Box(-1.0, 1.0, (int(np.prod(action.shape)),))
        pair = spaces.Tuple((observation_space, action))
        return cls([backbone_for(pair, "auto", net_arch) for _ in range(n_critics)], n_quantiles)

    def forward(self, observation: Any, action: Tensor) -> Tensor:
        """The values `(n, B)` of actions `(B, d)`, by each of the n critics; of quantiles, `(n, B, n_quantiles)`."""
        return torch.stack([self.value(number, observation, action) for number in range(len(self.heads))])

    def value(self, number: int, observation: Any, action: Tensor) -> Tensor:
        """The values `(B,)` by one critic; of quantiles, `(B, n_quantiles)`."""
        values: Tensor = self.heads[number](self.backbones[number]((observation, action)))  # (B, 1 or n_quantiles)
        return values[:, 0] if self.n_quantiles is None else values

    def of_policy(self, policy: Any, observation: Any) -> Tensor:
        """The values `(B,)` of the actions that a policy chooses: the smallest, or the mean of all quantiles."""
        action = policy.bounds.relative(policy.bounds.flat(policy.choose(policy(observation)[0])))
        values: Tensor = self(observation, action)  # (n, B), or (n, B, n_quantiles)
        return values.amin(0) if self.n_quantiles is None else values.mean((0, 2))


def smallest(values: Tensor, subset: int | None) -> Tensor:
    """The smallest value `(B,)` by each critic `(n, B)`, or by `subset` of them, drawn at random."""
    if subset is None or subset >= len(values):
        return values.amin(0)
    chosen = torch.rand(len(values), dtype=torch.float32, device=values.device).argsort()[:subset]
    return values[chosen].amin(0)
