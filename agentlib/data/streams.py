"""Streams of tasks: one data set as several, which come one after the other, and their batches with a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from agentlib.backbones.files import checksum
from agentlib.core.source import Source
from agentlib.data.batches import Examples
from agentlib.data.datasets import Dataset

Kind = Literal["split", "permuted"]


def stream_of(data: Dataset, kind: Kind, tasks: int, seed: int = 0) -> list[Dataset]:
    """A labelled data set as a stream of tasks.

    Args:
        data: the examples.
        kind: "split" gives each task some of the classes, in their order; "permuted" gives each task all examples, and
            from the second on a random order of its own of their numbers (Goodfellow et al. 2013, arXiv:1312.6211).
        tasks: how many.
        seed: of the orders.

    Raises:
        ValueError: fewer than two classes for a task.
    """
    if kind == "permuted":
        orders = np.random.default_rng([seed, 6])
        flat, size = data.x.flatten(1), data.x[0].numel()
        found = [data]
        for _ in range(tasks - 1):
            order = torch.from_numpy(orders.permutation(size))
            found.append(replace(data, x=flat[:, order].view_as(data.x)))
        return found
    groups = np.array_split(np.arange(len(data.classes)), tasks)
    if len(groups[-1]) < 2:
        raise ValueError(
            f"{len(data.classes)} classes split into {tasks} tasks leave less than two for one: give at most "
            f"{max(len(data.classes) // 2, 1)} tasks, or stream='permuted'"
        )
    return [data.take(torch.isin(data.targets, torch.from_numpy(group)).nonzero()[:, 0]) for group in groups]


class Stream(Source):
    """Batches of one task after the other, drawn with replacement; of those before, a memory is drawn from.

    Args:
        tasks: the training parts.
        batch_size: examples per batch; half of them are from the memory, as soon as it holds any.
        task_updates: updates of each task; the last one goes on for as long as it is asked.
        memory: examples of each class of a task that are remembered when it is over; 0 remembers none.
        seed: of the batches, and of what is remembered.
    """

    x: torch.Tensor
    y: torch.Tensor
    rows: torch.Tensor
    remembered: torch.Tensor
    ended: Callable[[], None] | None = None
    """Called as soon as a task is over, before the first batch of the next."""

    def __init__(
        self, tasks: Sequence[Dataset], batch_size: int, task_updates: int, memory: int = 0, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.task_updates, edges = task_updates, np.cumsum([0, *map(len, tasks)])
        self.members = [np.arange(first, last) for first, last in pairwise(edges)]
        generator, kept = np.random.default_rng([seed, 7]), list[np.ndarray]()
        for rows, task in zip(self.members, tasks, strict=True):
            labels = task.targets.numpy()
            chosen = [generator.permutation(rows[labels == label])[:memory] for label in np.unique(labels)]
            kept.append(np.concatenate(chosen))
        self.ends = np.cumsum([0, *map(len, kept)]).tolist()  # of what each task leaves
        self.register_buffer("remembered", torch.from_numpy(np.concatenate(kept)))
        self.register_buffer("x", torch.cat([task.x for task in tasks]), persistent=False)
        self.register_buffer("y", torch.cat([task.targets for task in tasks]), persistent=False)
        self.register_buffer("rows", torch.zeros(batch_size, dtype=torch.int64))

    def fingerprint(self) -> str:
        return checksum("", {"x": self.x, "y": self.y})

    @property
    def task(self) -> int:
        """The number of the present task, from 0."""
        return min(self.updates // self.task_updates, len(self.members) - 1)

    def advance(self) -> None:
        task, size = self.task, len(self.rows)
        if self.ended is not None and 0 < self.updates == task * self.task_updates:
            self.ended()
        old = self.remembered[: self.ends[task]].cpu().numpy()
        count = size // 2 if len(old) else 0
        both = [self.generator.choice(pool, n) for pool, n in ((self.members[task], size - count), (old, count)) if n]
        self.rows.copy_(torch.from_numpy(np.concatenate(both)))

    def sample(self) -> Examples:
        index = self.rows.clone()
        return Examples(self.x[index], self.y[index], index, self.batch_clock)
