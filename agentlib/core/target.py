"""A frozen copy of a network that follows its source."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from agentlib.core.schedules import Clock


def average_rate(keep: float, clock: Clock) -> Any:
    """How far a `Target` follows at each update to be an average of weights that keeps the share `keep` of itself.

    It is max(1 - keep, 9 / (10 + updates)): further at first, so that the first weights do not linger in short runs.
    """
    rate = 9.0 / (10.0 + clock.updates)
    return rate.clamp_min(1.0 - keep) if isinstance(rate, Tensor) else max(rate, 1.0 - keep)


class Target(nn.Module):
    """A frozen copy that follows its source: DQN's target network, the teacher of BYOL and DINO, an average of weights.

    It never leaves eval mode and never has gradients.

    Args:
        source: the network that is copied and followed.
        every: steps of the run's clock between two moves that `follow_when_due` makes; None leaves it to `follow`.
        tau: the share of the way that it moves each time; 1 copies.
    """

    def __init__(self, source: nn.Module, every: int | None = None, tau: float | Tensor = 1.0) -> None:
        super().__init__()
        self.network = copy.deepcopy(source).requires_grad_(False)
        self.__dict__["source"] = source  # a reference: the source is no part of its copy
        self.every, self.tau, self.moved_at = every, tau, 0
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy's output."""
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    def follow_when_due(self, clock: Clock) -> None:
        """Moves once for each `every` steps that passed since the last time; for `Learner.before_update`."""
        assert self.every is not None
        steps = int(clock.steps)
        due = steps // self.every - self.moved_at // self.every
        if due > 0:
            self.moved_at = steps
            self.follow(1.0 - (1.0 - self.tau) ** due)

    @torch.no_grad()
    def follow(self, tau: float | Tensor | None = None) -> None:
        """Moves each parameter the share `tau` of the way to the source's (1 copies it); buffers are copied."""
        tau = self.tau if tau is None else tau
        source: nn.Module = self.__dict__["source"]
        for mine, theirs in zip(self.network.parameters(), source.parameters(), strict=True):
            if isinstance(tau, float | int) and tau == 1.0:
                mine.copy_(theirs)
            else:
                mine.lerp_(theirs, tau)
        for old, new in zip(self.network.buffers(), source.buffers(), strict=True):
            old.copy_(new)

    def get_extra_state(self) -> dict[str, Any]:
        """When it moved last."""
        return {"moved_at": self.moved_at}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        self.moved_at = state["moved_at"]
