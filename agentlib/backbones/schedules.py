"""The clock of a run, and the schedules that follow it.

A schedule is a number or a function of a clock. The same schedule serves Python code (exploration while stepping an
environment) and compiled updates (a learning rate), because a `Clock` holds plain numbers in the first case and
0-dim tensors in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Clock(NamedTuple):
    """Where a run is.

    In Python the fields are plain numbers; on a batch they are 0-dim float64 tensors.
    """

    updates: int | Tensor
    """Updates of the learner done so far."""
    steps: int | Tensor
    """Environment steps for control, updates elsewhere."""
    fraction: float | Tensor
    """Share of the planned run that is over, 0 at the start and 1 at the end."""


Schedule = float | Callable[[Clock], Any]


def at(schedule: Schedule, clock: Clock) -> Any:
    """The schedule's value now: a number, or a 0-dim tensor if the clock holds tensors."""
    return schedule(clock) if callable(schedule) else schedule


def _between_0_and_1(value: Any) -> Any:
    return value.clamp(0.0, 1.0) if isinstance(value, Tensor) else min(max(value, 0.0), 1.0)


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over the first `over` of the run, then constant at `end`."""

    start: float
    end: float
    over: float = 1.0

    def __call__(self, clock: Clock) -> Any:
        if self.over <= 0.0:
            return self.end
        return self.start + (self.end - self.start) * _between_0_and_1(clock.fraction / self.over)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine over the first `over` of the run (Loshchilov & Hutter 2017, eq. 5)."""

    start: float
    end: float = 0.0
    over: float = 1.0

    def __call__(self, clock: Clock) -> Any:
        if self.over <= 0.0:
            return self.end
        angle = math.pi * _between_0_and_1(clock.fraction / self.over)
        cosine = torch.cos(angle) if isinstance(angle, Tensor) else math.cos(angle)
        return self.end + (self.start - self.end) * (1.0 + cosine) / 2.0
