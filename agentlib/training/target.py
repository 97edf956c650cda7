"""A frozen copy of a network that follows its source."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones.schedules import Clock


def average_rate(keep: float, clock: Clock) -> Any:
    """How far a `Target` follows at each update to be an average of weights that keeps the share `keep` of itself.

    It is max(1 - keep, 9 / (10 + updates)): further at first, so that the first weights do not linger in short runs.
    """
    rate = 9.0 / (10.0 + clock.updates)
    return rate.clamp_min(1.0 - keep) if isinstance(rate, Tensor) else max(rate, 1.0 - keep)


class Target(nn.Module):
    """A frozen copy that follows its source: DQN's target network, the teacher of BYOL and DINO, an average of weights.

    It never leaves eval mode and never has gradients.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(source).requires_grad_(False)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy's output."""
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, source: nn.Module, tau: float | Tensor = 1.0) -> None:
        """Moves each parameter the share `tau` of the way to the source's (1 copies it); buffers are copied."""
        for mine, theirs in zip(self.network.parameters(), source.parameters(), strict=True):
            if isinstance(tau, float | int) and tau == 1.0:
                mine.copy_(theirs)
            else:
                mine.lerp_(theirs, tau)
        for old, new in zip(self.network.buffers(), source.buffers(), strict=True):
            old.copy_(new)
