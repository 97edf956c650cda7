"""What an algorithm is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from agentlib.backbones.schedules import Clock


class Update(NamedTuple):
    """What an update reports."""

    metrics: dict[str, Tensor]
    """0-dim, detached tensors. Only the caller of `run` turns them into floats, and not often."""
    per_sample: Tensor | None = None
    """`(B,)`, what the source may want back: TD errors for priorities."""


class Learner(nn.Module, ABC):
    """One algorithm: its networks, optimizers and counters, all of them inside `state_dict()`.

    A learner receives built networks and an optimizer. It never builds a backbone, knows an environment, logs,
    evaluates, prints or saves. No algorithm inherits from another.
    """

    @abstractmethod
    def update(self, batch: Any) -> Update:
        """Learns from one batch.

        Pure tensor work on fixed shapes: no `.item()`, no Python branch on a tensor's value, no forward hooks, so that
        it can be compiled or captured.
        """

    def before_update(self, clock: Clock) -> None:
        """What happens every N updates or steps, outside the captured part.

        Called between two updates, once the source has advanced: `clock.updates` updates were done, and
        `clock.steps` steps lie behind the coming one.
        """
