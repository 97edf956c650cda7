"""Arrays that grow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentlib.core.numbers import array_of, first_odd


def per_step(name: str, values: Any, steps: int, dtype: type[Any], default: float = 0) -> NDArray[Any]:
    """An argument with one number, or one truth value, for each step `(steps,)`; None is the default everywhere.

    Raises:
        ValueError: another shape, what is no number, or truth values that are neither 0 nor 1; the message names the
            argument.
    """
    array = np.full(steps, default) if values is None else array_of(name, values)
    if array.shape != (steps,):
        raise ValueError(f"{name} has the shape {array.shape}: one value for each of {steps} steps has ({steps},)")
    is_flag = dtype is np.bool_
    odd = first_odd(array)
    if is_flag and not odd and not (fits := np.isin(array, (0, 1))).all():
        odd = f"{array[fits.argmin()]} at index {fits.argmin()}"
    if odd:
        raise ValueError(f"{name} must be {'True or False' if is_flag else 'a number'} at each step, and holds {odd}")
    return array.astype(dtype)


class Column:
    """An array that grows at its end: a row is copied a bounded number of times, however many follow."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._array, self.size = rows, len(rows)
        self.copied = 0
        """Rows that were moved so far because the array had to grow."""

    @property
    def rows(self) -> NDArray[Any]:
        """What is there; a view."""
        return self._array[: self.size]

    def reserve(self, size: int) -> None:
        """Makes room for `size` rows in all."""
        if size > len(self._array):
            grown = np.empty((size, *self._array.shape[1:]), self._array.dtype)
            grown[: self.size] = self.rows
            self.copied += self.size
            self._array = grown

    def extend(self, rows: ArrayLike) -> None:
        """Adds rows `(n, ...)`."""
        array = np.asarray(rows)
        end = self.size + len(array)
        if end > len(self._array):
            self.reserve(max(end, 2 * len(self._array)))
        self._array[self.size : end] = array
        self.size = end
