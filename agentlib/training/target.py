"""A frozen copy of a network that follows its source."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn


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
