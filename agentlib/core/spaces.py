"""Gymnasium spaces as trees of arrays, and as JSON.

An observation of any space with fixed shapes is a tree whose leaves are arrays: the leaves are what buffers store, and
the tree is what networks see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.names import one_line, shown
from agentlib.core.numbers import array_of, contents

LARGEST = 1 << 22
"""Numbers in the largest observation that a file may describe, all its parts together; Gymnasium allocates bounds."""
MOST_PARTS = 1_000
"""Parts of the largest one; Gymnasium takes a tenth of a millisecond for each."""

FEW = 32
"""Numbers that Python sums more quickly than numpy."""

Leaf = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary

ACTION_MASK = "action_mask"
"""The key of legal actions, in infos and in Dict observations."""
LEARNED_WITH_MASKS = "learned_with_action_masks"
"""The key, in the notes of an agent, that says whether it learned with masks of infos."""


def leaf_spaces(space: spaces.Space[Any]) -> list[Leaf]:
    """The leaves of a space in a fixed order (Dict: by key, as Gymnasium sorts them).

    Raises:
        TypeError: a part of the space has no fixed shape (Text, Sequence, Graph, OneOf).
    """
    if isinstance(space, spaces.Dict):
        return [leaf for part in space.spaces.values() for leaf in leaf_spaces(part)]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in leaf_spaces(part)]
    if isinstance(space, Leaf):
        return [space]
    raise TypeError(
        f"{type(space).__name__} spaces have no fixed shape: wrap the environment so that its spaces are made of "
        "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple"
    )


def flatten(space: spaces.Space[Any], value: Any) -> list[Any]:
    """The leaves of a value (or of a batch of values) in the order of `leaf_spaces`."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in flatten(part, value[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part, item in zip(space.spaces, value, strict=True) for leaf in flatten(part, item)]
    return [value]


def unflatten(space: spaces.Space[Any], leaves: Sequence[Any]) -> Any:
    """The tree (dicts and tuples) that has these leaves; the inverse of `flatten`."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return leaves[0]
    remaining = iter(leaves)

    def build(part: spaces.Space[Any]) -> Any:
        if isinstance(part, spaces.Dict):
            return {key: build(item) for key, item in part.spaces.items()}
        if isinstance(part, spaces.Tuple):
            return tuple(build(item) for item in part.spaces)
        return next(remaining)

    return build(space)


def choices(action_space: spaces.Space[Any]) -> tuple[int, ...]:
    """How many options each component of an action has: one number for Discrete; none for other kinds of actions."""
    if isinstance(action_space, spaces.Discrete):
        return (int(action_space.n),)
    if isinstance(action_space, spaces.MultiDiscrete):
        return tuple(int(size) for size in action_space.nvec.ravel())
    return ()


def random_actions(
    generator: np.random.Generator,
    sizes: Sequence[int],
    count: int,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Uniformly random legal options of each component, `(count, D)`.

    Args:
        generator: the source of random numbers.
        sizes: the number of options of each of the D components.
        count: how many actions.
        mask: `(count, sum(sizes))`, true where an option is legal; at least one must be, in each component.
    """
    if mask is None:
        return generator.integers(sizes, size=(count, len(sizes)))
    # The largest of equal random numbers is as likely at each of the legal options.
    ranks = np.where(mask, generator.random(mask.shape), -1.0)
    ends = np.cumsum(sizes)
    return np.stack([ranks[:, end - size : end].argmax(1) for size, end in zip(sizes, ends, strict=True)], 1)


def is_masked(observation_space: spaces.Space[Any]) -> bool:
    """Whether observations are Dicts with a part "action_mask"."""
    return isinstance(observation_space, spaces.Dict) and ACTION_MASK in observation_space.spaces


def observes_mask(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> bool:
    """Whether observations are Dicts that hold the mask of legal actions under the key "action_mask".

    Raises:
        ValueError: there is such a part, and it is no mask of these actions.
    """
    width = sum(choices(action_space))
    if not width or not isinstance(observation_space, spaces.Dict) or ACTION_MASK not in observation_space.spaces:
        return False
    shapes = [leaf_shape(leaf) for leaf in leaf_spaces(observation_space.spaces[ACTION_MASK])]
    if len(shapes) != 1 or (np.prod(shapes[0]) != width and shapes[0][-1:] != (width,)):  # the second: a frame stack
        raise ValueError(
            f"the part {ACTION_MASK!r} of the observation is {observation_space.spaces[ACTION_MASK]}: a mask has "
            f"{width} numbers for {action_space}; call it something else if it is none"
        )
    return True


def observed_mask(observation: Any, width: int, leading_axes: int = 1) -> Any:
    """The masks `(B, width)` in a batch of Dict observations, of arrays or tensors; of a frame stack, the newest."""
    mask = observation[ACTION_MASK]
    return mask.reshape(*mask.shape[:leading_axes], -1)[..., -width:] != 0


def without_mask(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The part of the observations that a network sees: all but the mask of legal actions."""
    if not observes_mask(observation_space, action_space):
        return observation_space
    assert isinstance(observation_space, spaces.Dict)
    return spaces.Dict([(key, part) for key, part in observation_space.spaces.items() if key != ACTION_MASK])


def leaf_shape(space: Leaf) -> tuple[int, ...]:
    """The shape of one leaf; `()` for Discrete."""
    return tuple(space.shape or ())


def leaf_dtype(space: Leaf) -> np.dtype[Any]:
    """The dtype in which a leaf is stored: its own, but float32 for float64, which networks cannot use."""
    dtype = np.dtype(space.dtype)
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def action_dtype(space: Leaf) -> np.dtype[Any]:
    """The dtype in which actions are stored: choices as int64, since they count from 0 and are indices of tensors."""
    return np.dtype(np.int64) if choices(space) else leaf_dtype(space)


def finite_sum(array: NDArray[Any]) -> bool:
    """Whether the numbers have a finite sum: if so there is no NaN and no infinity; if not, a closer look is due."""
    return math.isfinite(sum(array.ravel().tolist()) if array.size <= FEW else array.sum())


def to_batch(space: spaces.Space[Any], value: Any) -> tuple[list[NDArray[Any]], bool]:
    """The leaves of an observation with a leading batch axis, and whether it was a single observation.

    Raises:
        TypeError: an `(observation, info)` pair of `env.reset()`; or a type that does not fit the space.
        ValueError: a shape that does not fit the space, NaN, or a choice that there is not.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict) and not _fits_tuple(space, value):
        raise TypeError("this is the pair (observation, info) that env.reset() returns: pass the observation alone")
    try:
        parts = flatten(space, value)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        found = f"there is no part {error}" if isinstance(error, KeyError) else f"it is a {type(value).__name__}"
        raise TypeError(f"the observation does not have the structure of {space}: {found}") from None
    leaves, single = [], None
    for leaf, part in zip(leaf_spaces(space), parts, strict=True):
        try:
            array, shape = np.asarray(part), leaf_shape(leaf)
        except ValueError as error:
            raise ValueError(f"an observation of uneven parts does not fit {leaf}: {error}") from None
        if array.dtype != leaf.dtype and not (
            array.dtype != object and np.can_cast(array.dtype, np.dtype(leaf.dtype), "same_kind")
        ):
            raise TypeError(f"an observation of dtype {array.dtype} does not fit {leaf}{contents(array)}")
        is_single = array.shape == shape
        if (not is_single and array.shape[1:] != shape) or (single is not None and single != is_single):
            raise ValueError(
                f"an observation of shape {array.shape} does not fit {leaf}: give shape {shape}, "
                f"or (n, {', '.join(map(str, shape))}) for a batch".replace("(n, )", "(n,)")
            )
        if array.dtype.kind == "f" and not finite_sum(array) and np.isnan(array).any():
            row = "" if is_single else f" at index {int(np.isnan(array).reshape(len(array), -1).any(1).argmax())}"
            raise ValueError(f"the observation{row} contains NaN (space {leaf})")
        single, rows = is_single, array[None] if is_single else array
        if not isinstance(leaf, spaces.Box) and (index := first_outside(leaf, rows)) is not None:
            raise ValueError(
                f"the observation {rows[index]}{'' if is_single else f' at index {index}'} is not in {leaf}"
            )
        leaves.append(rows)
    if len({len(leaf) for leaf in leaves}) > 1:
        raise ValueError(f"the parts of the batch have different lengths: {[len(leaf) for leaf in leaves]}")
    return leaves, bool(single)


def action_to_space(space: spaces.Space[Any], action: NDArray[Any]) -> NDArray[Any]:
    """A batch of a policy's actions as actions of a space: with its dtype, its `start`, and within its bounds."""
    if isinstance(space, spaces.Box):
        whole = np.rint(action) if space.dtype is not None and np.dtype(space.dtype).kind in "iu" else action
        action = np.clip(whole, space.low, space.high)
        return action.astype(space.dtype, copy=False)
    shifted: NDArray[Any] = action + start_of(space)
    return shifted.astype(space.dtype, copy=False)


def action_from_space(space: spaces.Space[Any], action: NDArray[Any]) -> NDArray[Any]:
    """The inverse: discrete actions count from 0 and are int64, real numbers float32."""
    if isinstance(space, spaces.Box):
        return action.astype(np.float32)
    return action.astype(np.int64) - start_of(space)


def start_of(space: spaces.Space[Any]) -> NDArray[np.int64]:
    """The smallest discrete action, of each component; int64, in which small and unsigned types do not overflow."""
    return np.asarray(getattr(space, "start", 0)).astype(np.int64)


def overflows(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether there are finite numbers that another type of numbers cannot hold."""
    if not array.size or dtype.kind not in "iuf" or np.can_cast(array.dtype, dtype):
        return False
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    return bool(finite.size) and bool(finite.min() < limits.min or finite.max() > limits.max)


def first_outside(space: Leaf, rows: NDArray[Any]) -> int | None:
    """The index of the first of rows `(n, *shape)` that has a number outside the bounds, or none; None if all fit."""
    low: Any = 0
    high: Any = 1  # inclusive, as of MultiBinary
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
    elif isinstance(space, spaces.Discrete) and rows.size == 1:  # the same, without the cost of arrays of one
        return None if 0 <= rows.item() - int(space.start) < space.n else 0
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        low = start_of(space)
        high = low + np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec).astype(np.int64) - 1
    inside = (rows >= low) & (rows <= high) & np.isfinite(rows)  # false for NaN
    return None if inside.all() else int(inside.all(tuple(range(1, rows.ndim))).argmin())


def _fits_tuple(space: spaces.Space[Any], value: tuple[Any, ...]) -> bool:
    if not isinstance(space, spaces.Tuple) or len(space.spaces) != 2:
        return False
    return isinstance(second := space.spaces[1], spaces.Dict) and second.spaces.keys() == value[1].keys()


def to_actions(space: spaces.Space[Any], value: Any) -> NDArray[Any]:
    """A batch of actions `(n, *shape)` as an array of the space's dtype; each is one that the space contains.

    Raises:
        TypeError: a space of several parts, or actions of another kind.
        ValueError: a shape that does not fit, or an action outside the space; the message has its index.
    """
    leaf = leaf_spaces(space)[0]
    if leaf is not space:
        raise TypeError(f"actions of several parts are not supported: flatten {space} first")
    array, shape = array_of("actions", value), leaf_shape(leaf)
    dtype = np.dtype(leaf.dtype)
    # Whole numbers of any type: they are compared with the bounds below.
    if array.dtype == object or not (
        np.can_cast(array.dtype, dtype, "same_kind") or {array.dtype.kind, dtype.kind} <= {"i", "u"}
    ):
        raise TypeError(f"actions of dtype {array.dtype} do not fit {leaf}{contents(array)}")
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        wanted = "".join(f", {size}" for size in shape) or ","
        raise ValueError(f"actions of shape {array.shape} do not fit {leaf}: a batch of n has the shape (n{wanted})")
    if array.dtype.kind == "f":  # first: rounding may carry a number over the bound
        array = array.astype(leaf.dtype)
    if (index := first_outside(leaf, array)) is not None:
        raise ValueError(f"action {array[index]}, at index {index}, is not in {leaf}")
    return array.astype(leaf.dtype, copy=False)


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """A JSON-able description of a space.

    Raises:
        TypeError: a space without fixed shapes.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    leaf = leaf_spaces(space)[0]
    if isinstance(leaf, spaces.Box):
        bounds = {"low": _bound_to_json(leaf.low), "high": _bound_to_json(leaf.high)}
        return {"type": "Box", "shape": list(leaf.shape), "dtype": leaf.dtype.name, **bounds}
    if isinstance(leaf, spaces.Discrete):
        return {"type": "Discrete", "n": int(leaf.n), "start": int(leaf.start), "dtype": leaf.dtype.name}
    if isinstance(leaf, spaces.MultiDiscrete):
        numbers = {"nvec": leaf.nvec.tolist(), "start": leaf.start.tolist()}
        return {"type": "MultiDiscrete", **numbers, "dtype": leaf.dtype.name}
    return {"type": "MultiBinary", "n": leaf.n if isinstance(leaf.n, int) else list(leaf.n)}


def space_from_json(description: dict[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_json` described.

    Raises:
        ValueError: not such a description.
    """
    return _space(description, [LARGEST, MOST_PARTS])


def _space(description: Any, left: list[int]) -> spaces.Space[Any]:
    """The space; `left` are the numbers and the parts that it may still have."""
    left[1] -= 1
    if left[1] < 0:
        raise ValueError(f"a space of more than {MOST_PARTS:,} parts")
    try:
        kind = description["type"]
        if kind == "Dict":
            # Pairs, because a dict would be sorted, and the order is that of the leaves.
            return spaces.Dict([(key, _space(part, left)) for key, part in description["spaces"].items()])
        if kind == "Tuple":
            return spaces.Tuple([_space(part, left) for part in description["spaces"]])
        if kind == "Box":
            shape, dtype = tuple(description["shape"]), _dtype(description["dtype"])
            _spend(left, shape)
            low, high = (_bound_from_json(description[side], shape, dtype) for side in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            dtype = _dtype(description.get("dtype", "int64"))
            other = {} if dtype == np.int64 else {"dtype": dtype.type}  # an argument that older Gymnasium lacks
            return spaces.Discrete(description["n"], start=description["start"], **other)
        if kind == "MultiDiscrete":
            _spend(left, np.shape(description["nvec"]))
            dtype = _dtype(description.get("dtype", "int64"))
            return spaces.MultiDiscrete(description["nvec"], dtype.type, start=description["start"])
        if kind == "MultiBinary":
            n = description["n"]
            _spend(left, tuple(n) if isinstance(n, list) else (n,))
            return spaces.MultiBinary(n)
    except (KeyError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        raise ValueError(f"not the description of a space: {one_line(repr(error))}") from None
    raise ValueError(f"unknown kind of space {shown(kind)}")


def _spend(left: list[int], shape: tuple[Any, ...]) -> None:
    """Takes a part from what is left: Gymnasium allocates its numbers."""
    if not all(type(side) is int and side >= 0 for side in shape):  # a number times a list is a long list
        raise ValueError(f"a space of shape {shown(shape)}")
    left[0] -= math.prod(shape)
    if left[0] < 0:
        raise ValueError(f"a space of shape {shown(shape)} is larger than any observation that is read from a file")


def _dtype(name: Any) -> Any:
    """A type of numbers by its name: numpy also takes descriptions of records, some of which it evaluates."""
    known = {np.dtype(kind).name: np.dtype(kind) for kind in np.typecodes["AllInteger"] + "?" + np.typecodes["Float"]}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{shown(name)} is no type of numbers")
    return known[name]


def _bound_to_json(bound: NDArray[Any]) -> Any:
    is_constant = bound.size > 0 and bool((bound == bound.flat[0]).all())
    numbers = bound.ravel()[: 1 if is_constant else None]
    if bound.dtype.kind == "f":
        plain = [
            number if math.isfinite(number) else str(number) for number in numbers.tolist()
        ]  # JSON has no infinity
    else:
        plain = list(map(int, numbers.tolist()))
    return plain[0] if is_constant else plain


def _bound_from_json(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(bound, list):
        return np.array([float(value) if isinstance(value, str) else value for value in bound], dtype).reshape(shape)
    return np.full(shape, float(bound) if isinstance(bound, str) else bound, dtype)


def to_tensors(space: spaces.Space[Any], observation: Any, device: torch.device | str = "cpu") -> Any:
    """A batch of observations (numpy) as a tree of tensors on a device; float64 becomes float32."""
    leaves = []
    for leaf in flatten(space, observation):
        array = np.asarray(leaf)
        tensor = torch.from_numpy(np.array(array) if not array.flags.writeable else array)
        leaves.append(tensor.to(device, torch.float32 if tensor.dtype == torch.float64 else tensor.dtype))
    return unflatten(space, leaves)
