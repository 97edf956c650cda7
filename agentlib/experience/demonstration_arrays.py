"""Arrays with one row for each step, cut into episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from agentlib.core.numbers import array_of
from agentlib.core.spaces import to_batch, unflatten
from agentlib.experience.columns import per_step

MOST_LEFT_OUT = 0.1
"""Share of the steps above which a warning says how many are left out."""


def episodes_of(
    observation_space: spaces.Space[Any],
    observations: Any,
    next_observations: Any,
    actions: ArrayLike,
    rewards: ArrayLike | None,
    terminated: ArrayLike | None,
    truncated: ArrayLike | None,
) -> Iterator[tuple[Any, NDArray[Any], NDArray[np.float64], bool]]:
    """Observations, actions, rewards and whether the task ended, of each episode that has a step.

    The arguments are those of `Demonstrations.from_arrays`. Raises ValueError for shapes that do not go together.
    """
    leaves, _ = to_batch(observation_space, observations)
    next_leaves = leaves if next_observations is None else to_batch(observation_space, next_observations)[0]
    actions, count = array_of("actions", actions), len(leaves[0])
    if count == 0:
        raise ValueError("the arrays are empty")
    flags = {"terminated": terminated, "truncated": truncated}
    for name, given in {"next_observations": next_leaves[0], "actions": actions, "rewards": rewards, **flags}.items():
        if given is not None and (found := len(np.atleast_1d(array_of(name, given)))) != count:
            raise ValueError(f"there are {count} observations and {found} {name}")
    rewards = per_step("rewards", rewards, count, np.float64)
    task_ends, cuts = (per_step(name, given, count, np.bool_) for name, given in flags.items())
    begin = 0
    for last in sorted({*np.flatnonzero(task_ends | cuts).tolist(), count - 1}):
        stop = last if next_observations is None else last + 1
        if stop > begin:
            pairs = zip(leaves, next_leaves, strict=True)
            frames = [np.concatenate([leaf[begin:stop], after[last : last + 1]]) for leaf, after in pairs]
            yield unflatten(observation_space, frames), actions[begin:stop], rewards[begin:stop], bool(task_ends[last])
        begin = last + 1


def warning_of(total: int, kept: int) -> str:
    """The warning that many of the steps are left out; empty if few are.

    Raises:
        ValueError: none is left.
    """
    advice = "the last action of an episode leads nowhere without next_observations, and is left out: give them"
    if not kept:
        raise ValueError(f"each of the {total:,} steps is an episode of its own, so that none is kept: {advice}")
    return f"{total - kept:,} of {total:,} steps are not kept: {advice}" if total - kept > MOST_LEFT_OUT * total else ""
