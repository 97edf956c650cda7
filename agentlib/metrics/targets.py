"""Targets in the shape of the outputs that they are held against: one place, so that no loss broadcasts one to another.

Shapes and dtypes are all that is looked at, so that a loss inside an update can use it.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def labels_for(shape: Sequence[int], labels: Tensor) -> Tensor:
    """Labels of classes, for examples of this shape, as int64; `(..., 1)` will do for `(...)`.

    Raises:
        ValueError: they do not fit, or are no integers.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels of classes are integers from 0, not {labels.dtype}")
    if tuple(labels.shape) not in (tuple(shape), (*shape, 1)):
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit: one for each example, {tuple(shape)}")
    return labels.reshape(tuple(shape)).long()
