"""Tasks as a source: each batch holds several, each with examples to adapt to and others to be judged on.

Sinusoids   y = A sin(x + phase), a new task each time (Finn et al. 2017)
Episodes    N classes out of many, K examples of each to learn from (Vinyals et al. 2016)
Pools       tasks of one's own with examples at hand, such as the demonstrations of one expert for each task
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from agentlib.backbones.files import checksum
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.core.spaces import action_from_space, leaf_dtype, leaf_shape, leaf_spaces
from agentlib.data.datasets import Dataset
from agentlib.metrics.targets import labels_for


class Pairs(NamedTuple):
    """Examples of several tasks."""

    x: Tensor
    """`(tasks, n, ...)`"""
    y: Tensor
    """`(tasks, n, ...)`; labels `(tasks, n)` are int64 from 0."""


class Tasks(NamedTuple):
    """A batch of tasks."""

    support: Pairs
    """The examples that a learner adapts to."""
    query: Pairs
    """The examples on which it is judged: other examples of the same tasks."""
    clock: Clock


class Sinusoids(Source):
    """Regression of y = A sin(x + phase), with A in [0.1, 5], phase in [0, pi] and x in [-5, 5], uniform.

    The best that does not know the task predicts E[A] (2 / pi) cos x, and has a squared error of 3.01 on average.

    Args:
        tasks: tasks per batch.
        shots: points of each task to adapt to.
        queries: points of each task to be judged on.
        seed: of the tasks.
    """

    AMPLITUDE, PHASE, X = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)
    points: Tensor

    @staticmethod
    def task_agnostic(x: Tensor) -> Tensor:
        """The best prediction that does not know the task."""
        return 0.5 * sum(Sinusoids.AMPLITUDE) * (2.0 / math.pi) * x.cos()

    def __init__(self, tasks: int, shots: int, queries: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.tasks, self.shots, self.queries = tasks, shots, queries
        self.register_buffer("points", torch.zeros(2, tasks, shots + queries, 1, dtype=torch.float32))  # x and y

    def advance(self) -> None:
        x = self.generator.uniform(*self.X, (self.tasks, self.shots + self.queries, 1))
        amplitude = self.generator.uniform(*self.AMPLITUDE, (self.tasks, 1, 1))
        phase = self.generator.uniform(*self.PHASE, (self.tasks, 1, 1))
        self.points.copy_(torch.from_numpy(np.stack([x, amplitude * np.sin(x + phase)])))

    def sample(self) -> Tasks:
        """Points `(tasks, shots, 1)` to adapt to, and `(tasks, queries, 1)` to be judged on."""
        x, y = self.points.clone().unbind()
        return _split(x, y, self.shots, self.batch_clock)


TASKS: dict[str, type[Sinusoids]] = {"sinusoids": Sinusoids}
"""Families of tasks by name, for `data=` of a learner that learns to learn; data sets with labels make tasks too."""


class Episodes(Source):
    """N-way K-shot classification: each task has N classes of a data set, in a new order, and K examples of each.

    Args:
        data: labelled examples; for tasks on new classes see `split_classes`.
        ways: N, classes per task.
        shots: K, examples of each class to learn from.
        queries: examples of each class to be judged on.
        tasks: tasks per batch.
        seed: of the tasks.

    Raises:
        ValueError: no labels, or more ways or examples than the data has.
    """

    x: Tensor
    rows: Tensor

    def __init__(self, data: Dataset, ways: int, shots: int, queries: int, tasks: int = 1, seed: int = 0) -> None:
        super().__init__(seed)
        if data.y is None or data.y.is_floating_point() or not data.classes:
            raise ValueError("episodes need examples with labels of classes")
        if min(ways - 1, shots, queries, tasks) < 1:
            raise ValueError(f"an episode has 2 ways, 1 shot and 1 query at least, not {ways}, {shots} and {queries}")
        labels = data.y.numpy()
        members = [np.flatnonzero(labels == label) for label in range(len(data.classes))]
        self.members = [rows for rows in members if len(rows) >= shots + queries]
        if len(self.members) < ways:
            raise ValueError(
                f"{ways} ways with {shots} shots and {queries} queries need {ways} classes of {shots + queries} "
                f"examples; the data has {len(members)} classes, {len(self.members)} of them as large (the largest "
                f"{max(map(len, members))} examples): take fewer ways, shots or queries"
            )
        self.ways, self.shots, self.queries, self.tasks = ways, shots, queries, tasks
        # Not persistent: the data set is not part of a checkpoint, only the way through it.
        self.register_buffer("x", data.x, persistent=False)
        self.register_buffer("rows", torch.zeros(tasks, shots + queries, ways, dtype=torch.int64))

    def fingerprint(self) -> str:
        return checksum("", {"x": self.x, "rows": torch.from_numpy(np.concatenate(self.members))})

    def advance(self) -> None:
        count = self.shots + self.queries
        for task in range(self.tasks):
            chosen = self.generator.permutation(len(self.members))[: self.ways]
            rows = [self.generator.permutation(self.members[label])[:count] for label in chosen]
            self.rows[task].copy_(torch.from_numpy(np.stack(rows, 1)))

    def sample(self) -> Tasks:
        """Examples `(tasks, shots * ways, ...)` and `(tasks, queries * ways, ...)`; labels go round: 0, 1, 0, 1."""
        x = self.x[self.rows.flatten(1)]  # (tasks, (shots + queries) * ways, ...)
        label = torch.arange(self.ways, device=x.device).repeat(self.shots + self.queries)
        return _split(x, label.expand(self.tasks, -1), self.shots * self.ways, self.batch_clock)


class Pools(Source):
    """Tasks with examples at hand: for each batch some tasks are chosen, and some examples of each.

    Args:
        x: `(all tasks, n, ...)`, n examples of each task.
        y: `(all tasks, n, ...)`, the targets: numbers, or integers `(all tasks, n)`, which are labels from 0.
        shots: examples of each task to adapt to.
        queries: examples of each task to be judged on; no example is both.
        tasks: tasks per batch.
        seed: of the choice.

    Raises:
        ValueError: x and y do not fit, or have too few tasks or examples; or a label is negative.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    rows: Tensor

    def __init__(self, x: Tensor, y: Tensor, shots: int, queries: int, tasks: int, seed: int = 0) -> None:
        super().__init__(seed)
        if x.shape[:2] != y.shape[:2]:
            raise ValueError(f"examples {tuple(x.shape[:2])} (tasks, examples) have {tuple(y.shape[:2])} targets")
        if min(shots, queries, tasks) < 1 or tasks > len(x) or shots + queries > x.shape[1]:
            raise ValueError(
                f"batches of {tasks} tasks with {shots} shots and {queries} queries cannot be drawn from "
                f"{len(x)} tasks with {x.shape[1]} examples each"
            )
        if not y.is_floating_point():
            y = labels_for(x.shape[:2], y, int(y.max()) + 1, "y")
        self.shots, self.queries, self.tasks = shots, queries, tasks
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("y", y, persistent=False)
        self.register_buffer("task", torch.zeros(tasks, 1, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(tasks, shots + queries, dtype=torch.int64))

    @classmethod
    def from_demonstrations(
        cls, demonstrations: Sequence[Any], shots: int, queries: int, tasks: int, seed: int = 0
    ) -> Self:
        """Imitation as tasks: of each task's demonstrations as many labelled steps as the shortest have.

        Raises:
            ValueError: what `Pools` and `labelled_steps` raise.
        """
        pairs = [labelled_steps(one) for one in demonstrations]
        count = min((len(pair.y) for pair in pairs), default=0)
        if not count:
            raise ValueError("there are no labelled steps to learn from")
        x, y = (torch.stack([part[:count] for part in column]) for column in zip(*pairs, strict=True))
        return cls(x, y, shots, queries, tasks, seed)

    def fingerprint(self) -> str:
        return checksum("", {"x": self.x, "y": self.y})

    @property
    def ways(self) -> int:
        """Number of classes, where the targets are labels; 0 for numbers."""
        return 0 if self.y.is_floating_point() else int(self.y.max()) + 1

    def parted(self, held_out: int, seed: int = 0) -> tuple[Self, Self]:
        """The tasks to learn from, and the last `held_out` ones, which learning never sees; with this seed.

        Raises:
            ValueError: too few tasks.
        """
        first = len(self.x) - held_out
        if not 0 < first < len(self.x):
            raise ValueError(
                f"{held_out} of {len(self.x)} tasks cannot be held out: give a share held_out that holds "
                "one out for the result, and leaves some to learn from"
            )
        parts = [(self.x[:first], self.y[:first]), (self.x[first:], self.y[first:])]
        known, new = (type(self)(x, y, self.shots, self.queries, min(self.tasks, len(x)), seed) for x, y in parts)
        return known, new

    def advance(self) -> None:
        self.task.copy_(torch.from_numpy(self.generator.permutation(len(self.x))[: self.tasks, None]))
        count = self.shots + self.queries
        rows = [self.generator.choice(self.x.shape[1], count, replace=False) for _ in range(self.tasks)]
        self.rows.copy_(torch.from_numpy(np.stack(rows)))

    def sample(self) -> Tasks:
        """Examples `(tasks, shots, ...)` to adapt to, and `(tasks, queries, ...)` to be judged on."""
        return _split(self.x[self.task, self.rows], self.y[self.task, self.rows], self.shots, self.batch_clock)


def labelled_steps(demonstrations: Any) -> Pairs:
    """Observations `(n, ...)` and what the expert would do, `(n, ...)`, of one task's demonstrations, in their order.

    Discrete actions are indices from 0.

    Raises:
        ValueError: observations of several parts.
    """
    if len(demonstrations.observation_columns) != 1:
        raise ValueError(f"tasks have observations of one part, not of {demonstrations.observation_space}")
    seen = [episode.observations[:-1][episode.labelled] for episode in demonstrations]
    done = [episode.labels[episode.labelled] for episode in demonstrations]
    (leaf,) = leaf_spaces(demonstrations.observation_space)
    x = np.concatenate([np.reshape(part, (-1, *leaf_shape(leaf))) for part in seen]).astype(leaf_dtype(leaf))
    return Pairs(
        torch.from_numpy(x), torch.from_numpy(action_from_space(demonstrations.action_space, np.concatenate(done)))
    )


def checked_support(support: Pairs, ways: int) -> Pairs:
    """The support with labels `(tasks, n)` as int64.

    Raises:
        ValueError: they do not fit; or a class of 0 .. ways - 1 has no example in some task, or another class has one.
    """
    labels = labels_for(support.x.shape[:2], support.y, name="support.y").to(support.x.device)
    for task, row in enumerate(labels.tolist()):
        missing, others = sorted(set(range(ways)) - set(row)), sorted(set(row) - set(range(ways)))
        if missing or others:
            without = f"class {missing[0]} has no example" if missing else f"label {others[0]} is none of the classes"
            raise ValueError(
                f"the support of task {task} has the labels {sorted(set(row))}, and the classes are "
                f"0 to {ways - 1}: {without}. Number the classes of each task from 0, such as by "
                "labels.unique(return_inverse=True)[1]"
            )
    return support._replace(y=labels)


def _split(x: Tensor, y: Tensor, count: int, clock: Clock) -> Tasks:
    """The first `count` examples of each task as its support, the others as its query."""
    return Tasks(Pairs(x[:, :count], y[:, :count]), Pairs(x[:, count:], y[:, count:]), clock)


def split_classes(data: Dataset, held_out: int) -> tuple[Dataset, Dataset]:
    """The classes to learn from, and the last `held_out` classes, which learning never sees; labels of both are from 0.

    Raises:
        ValueError: no labels, or too few classes.
    """
    if data.y is None or not data.classes:
        raise ValueError("classes can be held out of labelled data only")
    if not 0 < held_out < len(data.classes):
        raise ValueError(f"{held_out} of {len(data.classes)} classes cannot be held out: learning needs some too")
    first = len(data.classes) - held_out
    is_known = data.y < first
    known = Dataset(data.x[is_known], data.y[is_known], data.classes[:first])
    return known, Dataset(data.x[~is_known], data.y[~is_known] - first, data.classes[first:])
