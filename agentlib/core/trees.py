"""Trees of tensors: dicts, lists and tuples, such as batches and states."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def copied(value: Any) -> Any:
    """A copy of a tree, with the state of modules, optimizers and generators; None for what has no known state."""
    if isinstance(value, Tensor | np.ndarray):
        return value.detach().clone() if isinstance(value, Tensor) else value.copy()
    if isinstance(value, nn.Module | torch.optim.Optimizer):
        return copied(dict(value.state_dict()))
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, list | tuple | deque):
        return (tuple if isinstance(value, tuple) else list)(map(copied, value))
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    return value if isinstance(value, bool | int | float | complex | str | bytes | set) else None


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, change) for item in value)
    return {key: mapped(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def leaves(value: Any) -> list[Tensor]:
    """The tensors of a tree, in the order of `mapped`."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return found


def difference(first: Any, second: Any, path: str = "") -> str | None:
    """Where two trees first differ, bit for bit; None if nowhere."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return None if first.dtype == second.dtype and torch.equal(first, second) else path or "it"
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return None if np.array_equal(first, second) else path or "it"
    if type(first) is not type(second):
        return path or "it"
    if isinstance(first, dict | list | tuple):
        keys = [list(tree) if isinstance(tree, dict) else list(range(len(tree))) for tree in (first, second)]
        if keys[0] != keys[1]:
            return path or "it"
        for key in keys[0]:
            found = difference(first[key], second[key], f"{path}.{key}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if first == second else path or "it"
