"""Data parallel training: several processes share out each batch and average their gradients.

Each process has the whole run: the same networks, source and seeds. Each draws the same batch, takes its part of the
samples, and `Step` averages the gradients of the parts, which is the gradient of the whole batch where the loss is a
mean over samples (`Learner.is_mean_over_samples`). So all processes stay equal, bit for bit, and the checkpoint of one
is everybody's. Random numbers inside an update, such as dropout's, are each process's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from agentlib.core.names import one_line, shown
from agentlib.core.source import Source
from agentlib.core.step import Step
from agentlib.core.trees import leaves, mapped

if TYPE_CHECKING:
    from agentlib.core.learner import Learner

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, such as for the first one, which alone evaluates and judges."""


def own_gpu(device: str | torch.device, local_rank: int, n_gpus: int) -> int | None:
    """The GPU of a process that is number `local_rank` on its machine; None where `device` leaves it no choice.

    Where there are more processes than GPUs, several share one.
    """
    wanted = None if str(device) == "auto" else torch.device(device)
    is_open = wanted is None or (wanted.type == "cuda" and wanted.index is None)
    return local_rank % n_gpus if is_open and n_gpus else None


class Ranks:
    """One of several processes: its number, and the connection to the others.

    Args:
        rank: its number, from 0.
        size: how many there are.
        group: what sums a tensor over all of them, in place: `group.allreduce([tensor]).wait()`.
        store: where they leave each other messages: `set(key, text)` and `get(key) -> bytes`, which waits.
    """

    def __init__(self, rank: int, size: int, group: Any, store: Any) -> None:
        self.rank, self.size, self.group, self.store = rank, size, group, store
        self.messages = 0
        self.generator = torch.default_generator
        """torch's own one on the device of the present update."""
        self.common: Tensor | None = None
        """The generator's state that all processes share, as one process alone would have it."""

    @classmethod
    def of_torchrun(cls) -> Ranks | None:
        """Those that torchrun has started, in a gloo group of our own; None if this process is alone.

        The default process group stays the host's.

        Raises:
            ValueError: no torchrun has started this process.
            RuntimeError: the others cannot be reached.
        """
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise ValueError("data_parallel=True needs torchrun: torchrun --nproc-per-node=2 program.py")
        if int(os.environ["WORLD_SIZE"]) == 1:
            return None
        return _connected()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that logs, evaluates and saves."""
        return self.rank == 0

    @staticmethod
    def on_own_gpu(device: str | torch.device) -> AbstractContextManager[object]:
        """Inside, "cuda" is the GPU of this process, by torchrun's `LOCAL_RANK`, unless `device` is another one."""
        gpu = own_gpu(device, int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count())
        return nullcontext() if gpu is None else torch.cuda.device(gpu)

    def join(self, learner: Learner, source: Source) -> None:
        """Makes the steps of a learner average their gradients, once it is known that all have the same run.

        Raises:
            ValueError: the learner's loss is no mean over samples, or it has no `Step`; or another process has other
                data or weights.
        """
        name = type(learner).__name__
        if not learner.is_mean_over_samples:
            raise ValueError(
                f"{name} cannot be trained by several processes: its loss is not known to be a mean over the samples "
                "of a batch, each on its own (Learner.is_mean_over_samples)"
            )
        steps = [module for module in learner.modules() if isinstance(module, Step)]
        if not steps:
            raise ValueError(f"{name} cannot be trained by several processes: it has no Step to average its gradients")
        if any(isinstance(module, BATCH_NORMS) for module in learner.modules()):
            raise ValueError(
                f"{name} cannot be trained by several processes with BatchNorm, whose statistics are of a whole batch: "
                "take another norm"
            )
        weights = torch.stack([parameter.detach().double().sum().cpu() for parameter in learner.parameters()])
        self.require_same("data", source.fingerprint() or "")
        self.require_same("weights", repr(weights.tolist()))
        learner.ranks = self
        for step in steps:
            step.ranks = self

    def require_same(self, name: str, value: str) -> None:
        """Raises ValueError where this process has another value than the first one."""
        if self.from_first(value) != value:
            raise ValueError(f"rank {self.rank} has other {name} than rank 0: all processes need the same run")

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """Inside, the first process is alone, and the others come when it has left."""
        if not self.is_first:
            self.from_first(None)
        yield
        if self.is_first:
            self.from_first(None)

    def from_first(self, value: Any) -> Any:
        """The first process's value, which JSON can hold, for all of them; it waits until that is there.

        Raises:
            RuntimeError: the first process has ended, or did not answer in time.
        """
        key, self.messages = f"message/{self.messages}", self.messages + 1
        try:
            if self.is_first:
                self.store.set(key, json.dumps(value))
            return json.loads(self.store.get(key))
        except RuntimeError as error:
            raise self._lost(error) from error

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in its place.

        Raises:
            RuntimeError: another process has ended, or did not answer in time.
        """
        try:
            self.group.allreduce([tensor]).wait()
        except RuntimeError as error:
            raise self._lost(error) from error
        return tensor

    def _lost(self, error: RuntimeError) -> RuntimeError:
        return RuntimeError(
            f"rank {self.rank}: another of the {self.size} processes has ended or does not answer; torchrun names it "
            f"({one_line(error)})"
        )

    def mean(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The averages of gradients over all processes, by one sum of all their numbers."""
        joined = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients])) / self.size
        pieces = joined.split([gradient.numel() for gradient in gradients])
        return tuple(piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True))

    def part(self, batch: Any) -> Any:
        """This process's samples of a batch: an equal block of the first dimension of each tensor.

        Raises:
            ValueError: the tensors are not of one length, or that cannot be divided.
        """
        lengths = {len(tensor) for tensor in leaves(batch) if tensor.dim()}
        if len(lengths) != 1:
            raise ValueError(f"a batch with tensors of the lengths {shown(sorted(lengths))} cannot be shared out")
        n = lengths.pop()
        if n % self.size:
            raise ValueError(
                f"a batch of {n} samples cannot be shared out among {self.size} processes: batch_size is that of all "
                f"of them, and a multiple of {self.size}"
            )
        rows = slice(n // self.size * self.rank, n // self.size * (self.rank + 1))
        return mapped(batch, lambda tensor: tensor[rows] if tensor.dim() else tensor)

    def whole(self, part: Tensor) -> Tensor:
        """Values `(B / size,)` of this process's samples, and the others', in the order of the batch `(B,)`."""
        values = part.new_zeros(self.size, *part.shape)
        values[self.rank] = part
        return self.sum(values).flatten(0, 1)

    def share(self, total: Tensor) -> Tensor:
        """This process's equal share of a sum over the whole batch, of which `total` is over its own samples.

        A sum over its samples, divided by this share, averages over processes to the weighted mean of the whole batch.
        """
        return self.sum(total.detach().clone()) / self.size

    @contextmanager
    def drawing_alike(self) -> Iterator[None]:
        """Inside, an update draws what one process would draw for the whole batch, the same in all processes."""
        own = self.generator.get_state()
        if self.common is not None:
            self.generator.set_state(self.common)
        try:
            yield
        finally:
            self.common = self.generator.get_state()
            self.generator.set_state(own)

    def seed(self, source: Source) -> int:
        """Of the random numbers inside the next update: another one in each process."""
        return hash((source.seed, source.updates, self.rank)) % 2**63


@cache
def _connected() -> Ranks:
    """Connects to the others, once in a process."""
    import torch.distributed

    distributed: Any = torch.distributed
    store, rank, size = next(iter(distributed.rendezvous("env://", timeout=TIMEOUT)))
    store = distributed.PrefixStore("agentlib", store)
    group = distributed.ProcessGroupGloo(distributed.PrefixStore("gloo", store), rank, size, TIMEOUT)
    return Ranks(rank, size, group, store)


def shared_cycle(learner: Learner, source: Source) -> Any:
    """`cycle`, on this process's part of the batch."""
    ranks = learner.ranks
    assert ranks is not None
    batch = source.sample()
    part = ranks.part(batch)
    device = source.ticks.device
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    ranks.generator, ranks.common = generator, generator.get_state()  # all sample from the same one
    generator.manual_seed(ranks.seed(source))
    try:
        update = learner.update(part)
    finally:  # what stops it here, such as the end of another process, may be saved
        generator.set_state(ranks.common)
    if update.per_sample is not None and source.wants_feedback:
        source.feedback(batch, ranks.whole(update.per_sample))
    return update
