"""Columns of a replay memory as checkpoints take them: what was written once stays, and is saved once."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Ring(NamedTuple):
    """A column in which each of n environments writes row after row, and from the start again when it is full.

    A row that was written does not change until another one takes its place.
    """

    column: Tensor
    """`(n, capacity, ...)`"""
    counts: list[int]
    """Rows that each environment has written so far, those that are overwritten included."""

    def copy_to(self, column: Tensor) -> None:
        """Puts these rows into a column of the same capacity, or of a larger one."""
        for env, count in enumerate(self.counts):
            if not count:
                continue
            rows = Rows(env, max(count - self.column.shape[1], 0), count)
            part = gathered(self.column, rows).to(column.device)
            for there, here in rows.slots(column.shape[1]):
                column[env, there] = part[here]


class Rows(NamedTuple):
    """A stretch of one environment's rows."""

    env: int
    begin: int
    """The number of the first row, as `Ring.counts` counts."""
    end: int

    def slots(self, capacity: int) -> list[tuple[slice, slice]]:
        """Where the rows are in a ring, and where among themselves: one piece, or two around the ring's end."""
        first, length = self.begin % capacity, self.end - self.begin
        head = min(length, capacity - first)
        pieces = [(slice(first, first + head), slice(0, head)), (slice(0, length - head), slice(head, length))]
        return pieces if length > head else pieces[:1]


def still_there(counts: list[int], capacity: int, rows: Rows) -> bool:
    """Whether the ring has any of these rows."""
    return rows.end > counts[rows.env] - capacity


def unsaved(counts: list[int], capacity: int, saved: list[int], most: int) -> list[Rows]:
    """The rows that came after those that are saved (`saved` counts like `counts`), in stretches of at most `most`."""
    stretches = []
    for env, (count, before) in enumerate(zip(counts, saved, strict=True)):
        first = max(before, count - capacity)
        stretches += [Rows(env, begin, min(begin + most, count)) for begin in range(first, count, most)]
    return stretches


def gathered(column: Tensor, rows: Rows) -> Any:
    """A copy of these rows, `(rows, ...)`, on the CPU."""
    made = column.new_empty((rows.end - rows.begin, *column.shape[2:]), device="cpu")
    for there, here in rows.slots(column.shape[1]):
        made[here] = column[rows.env, there]
    return made
