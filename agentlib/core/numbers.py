"""Numbers as callers give them: whole ones, and arrays that may hold something else."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentlib.core.names import one_line, shown


def whole(name: str, value: Any, low: int = 0, below: float = math.inf) -> int:
    """A whole number of Python, numpy, or anything else that is an index, as Python's; True and False are none.

    Raises:
        ValueError: it is none, or below `low`, or not `below`; the message has the name.
    """
    try:
        if not isinstance(value, bool | np.bool_) and low <= (number := operator.index(value)) < below:
            return number
    except TypeError:
        pass
    most = "" if below == math.inf else f" and below {below:.0f}"
    raise ValueError(f"{name} must be a whole number from {low}{most}, not {shown(value)}")


def array_of(name: str, value: Any) -> NDArray[Any]:
    """An argument as an array; raises ValueError, with the name, if its parts differ in shape."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} has parts of different shapes: {one_line(error)}") from None


def first_odd(array: NDArray[Any]) -> str:
    """The first thing in an array that is no number, such as "None at index 3"; empty if there is none."""
    if array.dtype.kind in "biuf":
        return ""
    for index, value in np.ndenumerate(array.astype(object)):
        if not isinstance(value, Real):
            return shown(value) + (f" at index {index[0] if len(index) == 1 else index}" if index else "")
    return ""


def contents(array: NDArray[Any]) -> str:
    """The end of a message about an array, such as ": it holds None at index 3"; empty if it holds numbers alone."""
    odd = first_odd(array)
    return f": it holds {odd}" if odd else ""
