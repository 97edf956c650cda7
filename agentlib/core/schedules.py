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

from agentlib.core.names import shown


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


@dataclass(frozen=True)
class Warmup:
    """Another schedule, or a number, times a share that rises in a straight line to 1 and stays there.

    The share is (u + 1) / updates in update u = 0, 1, ..., so that not even the first is without effect (Goyal et al.
    2017); or, with `over`, the fraction of the run divided by `over`, which starts at 0. One of the two is given.
    """

    then: Schedule
    updates: int = 0
    over: float = 0.0

    def __post_init__(self) -> None:
        if (self.updates > 0) == (self.over > 0.0):
            raise ValueError(
                f"Warmup takes updates > 0, or over > 0 as a share of the run, not updates={self.updates} and "
                f"over={self.over}"
            )

    def __call__(self, clock: Clock) -> Any:
        share = (clock.updates + 1) / self.updates if self.updates else clock.fraction / self.over
        return _between_0_and_1(share) * at(self.then, clock)


@dataclass(frozen=True)
class InverseSquareRoot:
    """Up to `peak` in a straight line over `warmup` updates, then down with their inverse square root.

    peak * min(n / warmup, sqrt(warmup / n)) in update n = 1, 2, ...      (Vaswani et al. 2017, section 5.3)

    There the peak is 1 / sqrt(width * warmup).
    """

    peak: float
    warmup: int = 4_000

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"InverseSquareRoot.warmup is at least 1, not {self.warmup}")

    def __call__(self, clock: Clock) -> Any:
        n = clock.updates + 1
        later = n.clamp(min=self.warmup) if isinstance(n, Tensor) else max(n, self.warmup)
        return self.peak * _between_0_and_1(n / self.warmup) * (self.warmup / later) ** 0.5


def scaled_to_batch(learning_rate: float, batch_size: int, reference: int) -> float:
    """The linear rule: a rate that suits batches of `reference`, for batches of `batch_size` (Goyal et al. 2017).

    k times the samples per update, k times the rate; large rates want a `Warmup`.
    """
    return learning_rate * batch_size / reference


def schedule_from_text(text: str) -> Schedule:
    """A number, or a schedule as the RL Zoo writes it.

    `lin_START` falls to 0 over the run; `lin_START_END` and `lin_START_END_OVER` say where to, and over which share of
    the run. `cos_` in place of `lin_` goes along a cosine.

    Raises:
        ValueError: neither.
    """
    kind, _, rest = text.partition("_")
    try:
        if kind not in ("lin", "cos"):
            return float(text)
        given = [float(number) for number in rest.split("_")]
        start, end, over = (*given, *(0.0, 1.0)[len(given) - 1 :])
        return (Linear if kind == "lin" else Cosine)(start, end, over)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is neither a number nor a schedule such as lin_2.3e-3 or lin_0.4_1.0"
        ) from None


def schedule_to_text(schedule: Schedule) -> str:
    """The inverse of `schedule_from_text`, as short as it can be; a function of one's own is named."""
    if not isinstance(schedule, Linear | Cosine):
        return getattr(schedule, "__name__", repr(schedule))
    numbers = [schedule.start, schedule.end, schedule.over]
    for usual in (1.0, 0.0):
        if numbers[-1] != usual:
            break
        numbers.pop()
    return "_".join(["lin" if isinstance(schedule, Linear) else "cos", *map(str, numbers)])
