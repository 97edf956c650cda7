"""Where batches come from: the base of all sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.core.numbers import whole
from agentlib.core.schedules import Clock

Batch = Any
"""A NamedTuple of tensors, possibly nested, with a field `clock`."""


class Diverged(FloatingPointError):
    """A number became NaN or infinite by this step; `saved_in` is the folder with the last good checkpoint, if any."""

    def __init__(self, message: str, step: int = 0, saved_in: Path | None = None) -> None:
        super().__init__(message)
        self.step, self.saved_in = step, saved_in
        self.member: int | None = None
        """The place, from 0, of the seed that diverged, where several are trained at once; else None."""

    @classmethod
    def at(cls, clock: Clock, fault: str) -> Self:
        """The error of networks whose numbers are no longer finite."""
        step = int(clock.steps)
        return cls(f"{fault} at step {step}: a smaller learning_rate or max_grad_norm may help", step)


class Source(nn.Module, ABC):
    """Where batches come from, and all that differs around the update.

    `advance` is Python and may do anything; `sample` and `feedback` are tensor work of fixed shapes, and are compiled
    or captured together with the learner's update. All that a source needs to go on is inside `state_dict()`.

    Randomness: `advance` draws from `self.generator`; `sample` and `feedback` from torch's default generator, whose
    state `agentlib.engine.run` swaps in around its own work.

    Args:
        seed: of both generators.
    """

    phase: Hashable = None
    """The kind of the next batch, of sources whose batches have several shapes, set in `advance`; each has a trace of
    its own."""
    wants_feedback = False
    """Whether `feedback` does more than to look for faults: processes that share a batch give it all of it."""
    ticks: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        seed = whole("seed", seed)
        self.generator = np.random.default_rng([seed, 0])
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        self.cuda_random_state: Tensor | None = None
        self.seed = seed
        self.updates = 0
        self.planned_updates = 0
        self.register_buffer("ticks", torch.zeros(3, dtype=torch.float64), persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:
        # At every update, and plain attributes by far the most often: `nn.Module` would first look for parameters.
        if name in self.__dict__ and type(value) in (int, Tensor):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def advance(self) -> None:
        """Gets the next update's data ready: steps environments, loads files, builds tasks."""

    def count_update(self) -> None:
        """One more update is done."""
        self.updates += 1

    @abstractmethod
    def sample(self) -> Batch:
        """The next batch: tensors only, always of the same shapes, or of those of its `phase`."""

    def feedback(self, batch: Batch, per_sample: Tensor | None) -> None:
        """Takes back what the update says of each sample `(B,)`, such as TD errors for priorities."""

    def trouble(self) -> str | None:
        """The fault in the batches, in words, where a loss is not finite; None if it is not known."""
        return None

    @property
    def finished(self) -> bool:
        """Whether there is no more to learn from; asked of sources whose length shows only as they go."""
        return False

    def measures(self) -> dict[str, float]:
        """Values to log besides the learner's metrics, under SB3's names; cheap."""
        return {}

    def fingerprint(self) -> str | None:
        """A digest of the data that it learns from and that no checkpoint holds, for a run that is resumed; or None."""
        return None

    def about(self) -> dict[str, Any]:
        """JSON-able facts about the experience so far that belong into the agent's file."""
        return {}

    def close(self) -> None:
        """Releases what the source made for itself, such as environments."""

    @property
    def clock(self) -> Clock:
        """Where the run is, in plain numbers."""
        return Clock(self.updates, self.updates, self.updates / max(self.planned_updates, 1))

    @property
    def batch_clock(self) -> Clock:
        """Where the run is, as 0-dim float64 tensors; for `sample` to put on the batch."""
        return Clock(*self.ticks.unbind())

    def fill_ticks(self, clock: Clock) -> None:
        """Copies the clock to the tensors behind `batch_clock`; `run` calls it before each `sample`."""
        ticks: Any = self._buffers["ticks"]  # quicker than the attribute, and each is, too, than all in one slice
        if ticks.is_cpu:
            numbers = ticks.numpy()
            numbers[0], numbers[1], numbers[2] = clock
        else:
            ticks.copy_(torch.tensor(clock, dtype=torch.float64), non_blocking=True)

    def get_extra_state(self) -> dict[str, Any]:
        """The part of the state that is no buffer: counters and generators."""
        return {
            "updates": self.updates,
            "planned_updates": self.planned_updates,
            "generator": self.generator.bit_generator.state,
            "random_state": self.random_state,
            "cuda_random_state": self.cuda_random_state,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        self.updates, self.planned_updates = state["updates"], state["planned_updates"]
        self.generator.bit_generator.state = state["generator"]
        self.random_state, self.cuda_random_state = state["random_state"], state["cuda_random_state"]
