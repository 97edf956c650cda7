"""The memory that a replay buffer takes, known before it is allocated; and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.core.spaces import choices, leaf_dtype, leaf_shape, leaf_spaces

SMALL_OBSERVATION = 1024
"""Up to this many bytes per observation, memory is laid out for the worst case (every episode one step long)."""
SPARE_FRAMES = 1 / 128
"""Share of frames beyond `buffer_size` for larger observations: what the starts of episodes need."""

Columns = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def replay_columns(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    buffer_size: int,
    num_envs: int,
    frame_stack: int,
    masked: bool = False,
) -> Columns:
    """Shape and dtype of each column, (num_envs, slots, ...); `masked` adds one for masks of legal actions."""
    leaves = leaf_spaces(observation_space)
    if frame_stack > 1 and any(leaf_shape(leaf)[:1] != (frame_stack,) for leaf in leaves):
        raise ValueError(f"frame_stack={frame_stack} does not fit {observation_space}: it must be the first axis")
    frames = [(leaf_shape(leaf)[1:] if frame_stack > 1 else leaf_shape(leaf), leaf_dtype(leaf)) for leaf in leaves]
    slots = max(buffer_size // num_envs, 1)
    observation_bytes = sum(int(np.prod(leaf_shape(leaf))) * leaf_dtype(leaf).itemsize for leaf in leaves)
    spare = slots * frame_stack if observation_bytes <= SMALL_OBSERVATION else int(slots * SPARE_FRAMES)
    frame_slots = slots + spare + frame_stack
    (action,) = leaf_spaces(action_space)
    columns: Columns = {
        "position": ((num_envs, slots), np.dtype(np.int64)),
        "action": ((num_envs, slots, *leaf_shape(action)), leaf_dtype(action)),
        "reward": ((num_envs, slots), np.dtype(np.float32)),
        "terminated": ((num_envs, slots), np.dtype(np.bool_)),
        "done": ((num_envs, slots), np.dtype(np.bool_)),
    }
    for i, (shape, dtype) in enumerate(frames):
        columns[f"frame_{i}"] = ((num_envs, frame_slots, *shape), dtype)
    if masked:
        columns["mask"] = ((num_envs, frame_slots, sum(choices(action_space))), np.dtype(np.bool_))
    return columns


def size_for(buffer_size: int, most: int) -> int:
    """The size of a buffer of `buffer_size` in a run that cannot give it more than `most`.

    Powers of two, so that a compiled update, which is built for one size, serves runs of many lengths.
    """
    return min(buffer_size, 1 << (most - 1).bit_length())


def nbytes(columns: Columns) -> int:
    """Bytes of all columns together."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in columns.values())


def refuse_what_cannot_fit(columns: Columns, buffer_size: int, device: torch.device) -> None:
    """Raises MemoryError, with the largest `buffer_size` that would do, if the columns exceed the free memory."""
    needed, free = nbytes(columns), free_memory(device)
    if free is not None and needed > free:
        fits = int(0.9 * buffer_size * free / needed)
        raise MemoryError(
            f"a replay buffer of {buffer_size:,} transitions needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
            f"free on {device}: buffer_size={fits:_} would fit"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device, as far as it can be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


class OnDevice:
    """A part of a column that is not in the processor's memory, entry by entry."""

    def __init__(self, part: Tensor) -> None:
        self.part = part

    def __getitem__(self, slot: int) -> Tensor:
        return self.part[slot]

    def __setitem__(self, slot: int, value: Any) -> None:
        self.part[slot] = torch.as_tensor(value)


def writable(part: Tensor) -> Any:
    """A part of a column, writable entry by entry: by numpy where it can be, many times quicker than by torch."""
    return part.numpy() if part.is_cpu else OnDevice(part)
