"""A row of docs/benchmarks.md, and how its sides are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from agentlib.core.host import torch_threads

Times = dict[str, float]
"""Of one pair: seconds for the same work, by side; "limit" is the sum of what cannot be avoided."""
MICRO = ("µs", 1e6)


@dataclass(frozen=True)
class Row:
    """One comparison."""

    name: str
    work: str
    against: str
    measure: Callable[[int], Times]
    """One pair, by its number: both sides, one after the other."""
    floor: float
    """Asked: their time over ours is at least so much."""
    goal: float | None = None
    peer: str = "theirs"
    unit: tuple[str, float] = ("s", 1.0)
    """In which seconds are shown."""
    inverse: bool = False
    """Asked is that ours over theirs is at most `floor`."""
    pairs: int = 5
    note: str = ""
    steps: Callable[[], Any] | None = None
    """Done once before: what is compiled or installed."""


@contextmanager
def threads_of_all(count: int) -> Iterator[None]:
    """torch's threads, and those that numpy's products have of their own."""
    with torch_threads(count), threadpool_limits(count):
        yield


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def each(work: Callable[[], Any], times: int) -> float:
    """Seconds of one call, the median over ten series of calls."""
    work()
    series = [timed(lambda: [work() for _ in range(times)])[0] / times for _ in range(10)]
    return float(np.median(series))


def through(updates: Iterator[Any]) -> None:
    for _ in updates:
        pass
