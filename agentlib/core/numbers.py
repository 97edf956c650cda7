"""Whole numbers as callers give them."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from agentlib.core.names import shown


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
