"""Examples as a source: a data set that lives on the device, shuffled per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agentlib.backbones.files import checksum
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.data.datasets import Dataset

Transform = Callable[[Tensor], Tensor]
"""Changes a batch `(B, ...)` at random, by torch's default generator, on the device of the batch."""


class Examples(NamedTuple):
    """A batch of examples; with `batches_per_update` n and `views` v, both axes stand first: `(n, v, B, ...)`."""

    x: Tensor
    """`(B, ...)`, or `(v, B, ...)`, `(n, B, ...)`, `(n, v, B, ...)`."""
    y: Tensor | None
    """`(B,)` or `(B, k)`, or `(n, B, ...)`; None for unlabelled data."""
    index: Tensor  # type: ignore[assignment] # hides tuple.index
    """`(B,)` or `(n, B)` int64: the rows of the data set."""
    clock: Clock


class Batches(Source):
    """Batches of a data set, each example once per epoch, in a new order each time.

    A batch may hold the end of one epoch and the start of the next, so that all have one size and none is left out.

    Args:
        data: the examples; they move with the source to a device.
        batch_size: examples per batch; at most all of them.
        transform: changes each batch as it is drawn, such as an augmentation.
        views: number of times that each batch is transformed; with more than one, the views are stacked.
        batches_per_update: number of batches for each update; with more than one, they are stacked.
        seed: of order and transforms.

    Raises:
        ValueError: no examples, or `views` without a `transform`.
    """

    x: Tensor
    y: Tensor | None
    rows: Tensor
    bad_update: Tensor
    bad_rows: Tensor

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        *,
        transform: Transform | None = None,
        views: int = 1,
        batches_per_update: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not len(data):
            raise ValueError("there are no examples to learn from")
        if views > 1 and transform is None:
            raise ValueError(f"{views} views of an example need a transform, or they are all the same")
        self.batch_size, self.transform, self.views = min(batch_size, len(data)), transform, views
        self.batches_per_update = batches_per_update
        # Not persistent: the data set is not part of a checkpoint, only the way through it.
        self.register_buffer("x", data.x, persistent=False)
        self.register_buffer("y", data.y, persistent=False)
        self.register_buffer("rows", torch.zeros(batches_per_update * self.batch_size, dtype=torch.int64))
        self.register_buffer("bad_update", torch.tensor(-1.0, dtype=torch.float64), persistent=False)
        self.register_buffer("bad_rows", torch.full((self.batch_size,), -1), persistent=False)
        self.queue = np.zeros(0, np.int64)  # rows of this epoch that are still to come

    @property
    def epoch_updates(self) -> int:
        """Updates that go once through the data, rounded up."""
        return -(-len(self.x) // len(self.rows))

    def fingerprint(self) -> str:
        return checksum("", {"x": self.x} if self.y is None else {"x": self.x, "y": self.y})

    def advance(self) -> None:
        while len(self.queue) < len(self.rows):
            self.queue = np.concatenate([self.queue, self.generator.permutation(len(self.x))])
        self.rows.copy_(torch.from_numpy(self.queue[: len(self.rows)]))
        self.queue = self.queue[len(self.rows) :]

    def sample(self) -> Examples:
        index = self.rows.clone()
        x = self.x[index]
        y = None if self.y is None else self.y[index]
        views = [x if self.transform is None else self.transform(x) for _ in range(self.views)]
        if self.batches_per_update > 1:
            shape = (self.batches_per_update, self.batch_size)
            views = [view.unflatten(0, shape) for view in views]  # (n, B, ...)
            y, index = None if y is None else y.unflatten(0, shape), index.unflatten(0, shape)
        x = views[0] if self.views == 1 else torch.stack(views, int(self.batches_per_update > 1))
        return Examples(x, y, index, self.batch_clock)

    def feedback(self, batch: Examples, per_sample: Tensor | None) -> None:
        """Remembers the first batch in which the loss of an example `(B,)` was no finite number."""
        if per_sample is None or per_sample.shape != batch.index.shape or self.batches_per_update > 1:
            return
        bad = ~torch.isfinite(per_sample)
        first = bad.any() & (self.bad_update < 0)
        self.bad_update.copy_(torch.where(first, batch.clock.updates, self.bad_update))
        self.bad_rows.copy_(torch.where(first, torch.where(bad, batch.index, -1), self.bad_rows))

    def trouble(self) -> str | None:
        if self.bad_update < 0:
            return None
        rows = self.bad_rows[self.bad_rows >= 0].tolist()
        listed = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        return (
            f"it was the first time in update {int(self.bad_update)}, for {len(rows)} of {self.batch_size} examples: "
            f"rows {listed} of the training data"
        )

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, generators, and the rest of this epoch."""
        return super().get_extra_state() | {"queue": self.queue}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.queue = np.asarray(state["queue"]).copy()
