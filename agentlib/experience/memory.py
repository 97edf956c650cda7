"""The parts of both replay buffers: columns whose memory is known before it is allocated."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.spaces import choices, flatten, observes_mask
from agentlib.experience.ring import Ring

Columns = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape, `(num_envs, slots, ...)`, and dtype of each column."""
SIZES = ("transitions", "frames")
"""Parts of a layout that may have been smaller where a state comes from."""


class ReplayMemory(nn.Module, ABC):
    """Columns in which n environments write side by side, each its own ring of frames; the base of replay buffers.

    Masks of legal actions (see `agentlib.envs.checks`) lie beside the frames, from the first one that is given; those
    that are a part of the observation are read from there.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        buffer_size: how many entries it is for.
        columns_for: all columns but the masks, by `buffer_size`; the leaves of observations are called "frame_0" ...
        device: where the columns live.

    Raises:
        MemoryError: the columns would not fit into the free memory; the message names a size that would.
    """

    window: Tensor
    mask: Tensor
    _COUNTERS: tuple[str, ...] = ("frames",)

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        buffer_size: int,
        columns_for: Callable[[int], Columns],
        device: torch.device | str,
    ) -> None:
        super().__init__()
        columns = columns_for(buffer_size)
        self.observation_space, self.action_space, self.buffer_size = observation_space, action_space, buffer_size
        self.num_envs, self.frame_capacity = columns["frame_0"][0][:2]
        self.n_choices, self.masks_observed = sum(choices(action_space)), observes_mask(observation_space, action_space)
        self.layout: dict[str, int] = {}
        """The sizes by which slots are counted; a state is only for a buffer of the same ones."""
        self.masked, self.nbytes = False, 0
        self._names = [name for name in columns if name.startswith("frame_")]
        self._others = [name for name in columns if not name.startswith("frame_")]
        self._frames = [0] * self.num_envs  # frames that each environment wrote
        self._rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]  # of each environment, by column
        # How many sizes, from 1 on, fit into some bytes: the largest of them.
        fitting = lambda room: bisect_right(range(1, buffer_size), room, key=lambda n: nbytes(columns_for(n)))  # noqa: E731
        self._allocate(columns, torch.device(device), fitting)

    def _allocate(
        self, columns: Columns, device: torch.device, fitting: Callable[[float], int], value: int = 0
    ) -> None:
        """Registers columns that are full of 0 or 1, and makes them writable entry by entry.

        `fitting` gives the largest buffer whose columns take that many bytes at most, for the message.
        """
        needed, free = nbytes(columns), free_memory(device)
        if free is not None and needed > free:
            fits = fitting(0.9 * free)
            raise MemoryError(
                f"a replay buffer of {self.buffer_size:,} transitions needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} "
                f"GB are free on {device}: {f'buffer_size={fits:_}' if fits else 'none'} would fit"
            )
        self.nbytes += needed
        for name, (shape, dtype) in columns.items():
            # Not persistent: `get_extra_state` saves the part that is filled. numpy's zeros take memory when written.
            column = torch.from_numpy(np.ones(shape, dtype) if value else np.zeros(shape, dtype)).to(device)
            self.register_buffer(name, column, persistent=False)
            self._write_to(name, column)

    def _write_to(self, name: str, column: Tensor) -> None:
        """Makes a column writable entry by entry."""
        for row, part in zip(self._rows, column, strict=True):
            row[name] = part.numpy() if part.is_cpu else OnDevice(part)  # numpy is many times quicker than torch

    def moved(self) -> None:
        """The columns are in other memory now, and writing goes there."""
        for name in self._rows[0]:
            self._write_to(name, getattr(self, name))

    def keep_masks(self) -> None:
        """Makes room for masks of legal actions; all actions were legal so far. Done by the first mask that is given.

        Raises:
            MemoryError: it does not fit into the free memory.
        """
        shape = (self.num_envs, self.frame_capacity, self.n_choices)
        mask: Columns = {"mask": (shape, np.dtype(np.bool_))}
        share = self.buffer_size / nbytes(mask)
        self._allocate(mask, self.window.device, lambda room: int(share * room), 1)
        self._others.append("mask")
        self.masked = True

    def _write_mask(self, row: int, mask: NDArray[np.bool_] | None) -> None:
        """The mask of the newest frame."""
        if mask is not None and not (self.masked or self.masks_observed):
            self.keep_masks()
        if self.masked:
            slot = (self._frames[row] - 1) % self.frame_capacity
            self._rows[row]["mask"][slot] = True if mask is None else mask

    def _leaves(self, observation: Any) -> list[NDArray[Any]]:
        if type(observation) is np.ndarray:
            return [observation]
        return [np.asarray(leaf) for leaf in flatten(self.observation_space, observation)]

    @abstractmethod
    def _counts(self, name: str) -> list[int]:
        """How many rows each environment has written to a column that is no ring of frames."""

    def _filled(self, name: str) -> int:
        """How many slots of such a column are written, in the environment that has written the most."""
        return min(max(self._counts(name)), int(getattr(self, name).shape[1]))

    @abstractmethod
    def flush(self) -> None:
        """Makes what was written visible to `draw`: call it after a series of `begin` and `add`."""

    def get_extra_state(self) -> dict[str, Any]:
        """The filled part of the columns, and how far they are filled."""
        self.flush()
        counters = {name: list(getattr(self, f"_{name}")) for name in self._COUNTERS}
        return counters | {
            "layout": self.layout,
            "columns": {name: getattr(self, name)[:, : self._filled(name)] for name in self._others},
            "rings": {name: Ring(getattr(self, name), list(self._frames)) for name in self._names},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave, here or in a smaller buffer that is otherwise the same.

        Raises:
            ValueError: it is the state of a larger buffer, or of one whose rings are laid out otherwise.
        """
        pairs = {key: (size, state["layout"].get(key)) for key, size in self.layout.items()}
        fits = all(a == b or (key in SIZES and b is not None and b < a) for key, (a, b) in pairs.items())
        if not fits or state["layout"].keys() != self.layout.keys():
            kind = type(self).__name__
            raise ValueError(f"the state is of a {kind} of {state['layout']}, this one has {self.layout}")
        if "mask" in state["columns"] and not self.masked:
            self.keep_masks()
        for name in self._COUNTERS:
            setattr(self, f"_{name}", list(state[name]))
        for name, column in state["columns"].items():
            Ring(column, self._counts(name)).copy_to(getattr(self, name))
        for name, ring in state["rings"].items():
            ring.copy_to(getattr(self, name))
        self.flush()


class OnDevice:
    """A part of a column that is not in the processor's memory, entry by entry."""

    def __init__(self, part: Tensor) -> None:
        self.part = part

    def __getitem__(self, slot: int) -> Tensor:
        return self.part[slot]

    def __setitem__(self, slot: int, value: Any) -> None:
        self.part[slot] = torch.as_tensor(value)


def uniform_positions(sizes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Environments `(B,)` and positions in them `(B,)`: all of `sizes (n,)` positions are equally likely."""
    sums = sizes.cumsum(0) if len(sizes) > 1 else sizes
    uniform = torch.rand(count, dtype=torch.float64, device=sizes.device)
    ticket = (uniform * sums[-1]).long()
    if len(sizes) == 1:
        return torch.zeros_like(ticket), ticket
    row = torch.searchsorted(sums, ticket, right=True)
    return row, ticket - (sums[row] - sizes[row])


def size_for(buffer_size: int, most: int) -> int:
    """The size of a buffer of `buffer_size` in a run that cannot give it more than `most`.

    Powers of two, so that a compiled update, which is built for one size, serves runs of many lengths.
    """
    return min(buffer_size, 1 << (most - 1).bit_length())


def nbytes(columns: Columns) -> int:
    """Bytes of all columns together."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in columns.values())


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device, as far as it can be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
