"""Arrays that are too large for memory lie in a file: the system reads what is asked for, and takes the room back."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGE = 1 << 30
"""Bytes from which an array is put into a file of the temporary folder (`TMPDIR`), which goes when the array does."""
PIECE = 1 << 23
"""Bytes that are worked on at once."""


def room_for(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """An array to be filled, in memory or, from `LARGE` bytes on, in a file.

    Raises:
        OSError: the temporary folder has not as much room.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    with without_name() as file:
        if hasattr(os, "posix_fallocate"):  # or a full disk would end the process where the array is filled
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.memmap(file, dtype, "r+", shape=tuple(shape))


def without_name() -> IO[bytes]:
    """A file that a map of it holds: when both are gone, so is its space on the disk.

    It is mapped by itself and never opened by a name, which some systems refuse.
    """
    return tempfile.TemporaryFile()


def gathered(x: Tensor, rows: Tensor) -> Tensor:
    """`x[rows]`; where that is large, in a file."""
    shape = (len(rows), *x.shape[1:])
    if math.prod(shape) * x.element_size() < LARGE or x.device.type != "cpu" or rows.dim() != 1:
        return x[rows]
    found = torch.from_numpy(room_for(shape, x[:0].numpy().dtype))
    for here, there in zip(*(each.split(_at_once(found)) for each in (found, rows)), strict=True):
        here.copy_(x[there])
    return found


def first_that_is_not_finite(x: Tensor) -> int | None:
    """The first row of `(N, ...)` with a NaN or an infinite number, a piece at a time; None if all are finite."""
    if not x.is_floating_point():
        return None
    count = _at_once(x)
    for number, piece in enumerate(x.reshape(len(x), math.prod(x.shape[1:])).split(count)):
        wrong = ~torch.isfinite(piece)
        if bool(wrong.any()):
            return number * count + int(wrong.any(1).nonzero()[0])
    return None


def _at_once(x: Tensor) -> int:
    """Rows that are worked on at once."""
    return max(PIECE // max(math.prod(x.shape[1:]) * x.element_size(), 1), 1)
