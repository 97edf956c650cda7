"""Targets in the shape of the outputs that they are held against: one place, so that no loss broadcasts one to another.

Shapes and dtypes are all that is looked at, so that a loss inside an update can use it; labels of a known number of
classes are looked at too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def numbers_for(output: Tensor, target: Tensor) -> Tensor:
    """Numbers to predict in the shape of an output `(..., k)`; `(...)` will do for k = 1.

    Raises:
        ValueError: they do not fit.
    """
    axes = output.dim() - 1
    if target.shape[:axes] != output.shape[:axes] or target.numel() != output.numel():
        raise ValueError(f"targets of shape {tuple(target.shape)} do not fit outputs of shape {tuple(output.shape)}")
    target = target.reshape(output.shape)
    return target if target.is_floating_point() else target.to(output.dtype)


def labels_for(
    shape: Sequence[int], labels: Tensor | NDArray[Any], classes: int | None = None, name: str = "labels"
) -> Tensor:
    """Labels of classes, for examples of this shape, as int64; `(..., 1)` will do for `(...)`.

    Args:
        shape: of the labels.
        labels: integers of any dtype, in a tensor or an array.
        classes: how many there are; inside an update, which looks at no number, None.
        name: of the argument, for the message.

    Raises:
        ValueError: they have another shape, are no integers, or are none of the classes.
    """
    shape, given = tuple(shape), labels if isinstance(labels, Tensor) else np.asarray(labels)
    if isinstance(given, Tensor):
        is_whole = not given.is_floating_point() and not given.is_complex()
    else:
        is_whole = given.dtype.kind in "biu"
    found = f"{given.dtype} of shape {tuple(given.shape)}"
    if is_whole and tuple(given.shape) in (shape, (*shape, 1)):
        tensor = given if isinstance(given, Tensor) else torch.from_numpy(given.astype(np.int64))
        tensor = tensor.reshape(shape).long()
        if classes is None or not tensor.numel():
            return tensor
        low, high = int(tensor.min()), int(tensor.max())
        if low >= 0 and high < classes:
            return tensor
        found = f"{low} to {high}"
    known = "a class from 0" if classes is None else f"of the {classes} classes 0 to {classes - 1}"
    raise ValueError(f"{name} must be integers of shape {shape}, each {known}, not {found}")
