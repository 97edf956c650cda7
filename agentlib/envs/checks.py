"""Checks of each observation and mask: nothing is learned from NaN, other shapes or impossible masks.

A mask of legal actions is an array `(A,)`, nonzero where an action is legal; environments give it in their infos, or as
a part of Dict observations. A is the number of actions of a Discrete space; for MultiDiscrete it is the sum over the
components, whose masks stand side by side (a tuple of them, as Gymnasium's `space.sample` takes it, is joined). An
environment that gives no mask allows everything.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.spaces import (
    ACTION_MASK,
    choices,
    finite_sum,
    flatten,
    leaf_shape,
    leaf_spaces,
    observed_mask,
    observes_mask,
)

Bools = NDArray[np.bool_]


class EnvironmentFailure(RuntimeError):
    """An environment failed, or gave something that cannot be learned from."""

    saved_in: Path | None = None
    """The folder in which the run was saved."""
    step: int | None = None
    """Of the run's clock."""


def mistake_of(error: Exception) -> str:
    """An environment's mistake, in words, by the error that came of it."""
    if isinstance(error, ValueError) and "values to unpack (expected" in str(error):
        return "gave other values than Gymnasium's (observation, reward, terminated, truncated, info)"
    if isinstance(error, KeyError):
        return f"raised, or gave an observation without {error}"
    return "raised"


def pair_of(found: Any) -> tuple[Any, Any]:
    """The observation and the info that a reset gave."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise EnvironmentFailure("the environment's reset gave no pair (observation, info)")
    observation, info = found
    return observation, info


class Checks:
    """Reads and checks the observations and masks of n environments.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        num_envs: n.
        single: the environment is no vector environment; its infos are those of one.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        num_envs: int = 1,
        single: bool = True,
    ) -> None:
        self.space, self.action_space, self.num_envs, self.single = observation_space, action_space, num_envs, single
        self.sizes, self.masks_observed = choices(action_space), observes_mask(observation_space, action_space)
        self.width = sum(self.sizes)
        # Of each part: its space, its batched shape, and the dtypes that were found to fit.
        self._leaves: list[tuple[Any, tuple[int, ...], set[np.dtype[Any]]]] = [
            (leaf, (num_envs, *leaf_shape(leaf)), {np.dtype(leaf.dtype)}) for leaf in leaf_spaces(observation_space)
        ]
        self._is_leaf = not isinstance(observation_space, spaces.Dict | spaces.Tuple)

    def observation(self, observation: Any, step: int) -> None:
        """Raises EnvironmentFailure for a batched observation of another shape or type, or with NaN or infinities."""
        leaves = [observation] if self._is_leaf else flatten(self.space, observation)
        for leaf, (space, shape, known) in zip(leaves, self._leaves, strict=True):
            if leaf.shape != shape or leaf.dtype not in known:
                if leaf.shape != shape or not np.can_cast(leaf.dtype, np.dtype(space.dtype), "same_kind"):
                    raise EnvironmentFailure(
                        f"the environment gave an observation of shape {leaf.shape[1:]} and dtype {leaf.dtype} at step "
                        f"{step}, which does not fit {space}"
                    )
                known.add(leaf.dtype)
            if leaf.dtype.kind == "f" and not finite_sum(leaf) and not np.isfinite(leaf).all():
                kind = "NaN" if np.isnan(leaf).any() else "infinities"
                raise EnvironmentFailure(f"the environment gave an observation with {kind} at step {step}")

    def read(self, observation: Any, info: Any) -> Bools | None:
        """The masks `(n, A)` that came with batched observations; None if none came.

        Args:
            observation: batched.
            info: of a single environment, of a Gymnasium vector environment, or a list of infos.

        Raises:
            ValueError: a mask of another size than the action space.
        """
        if self.masks_observed:
            return np.asarray(observed_mask(observation, self.width))
        if isinstance(info, dict):
            if ACTION_MASK not in info or not self.width:
                return None
            masks = [info[ACTION_MASK]] if self.single else info[ACTION_MASK]
            given = info.get("_" + ACTION_MASK, [True] * len(masks))
        else:
            masks = [one.get(ACTION_MASK) for one in info]
            given = [mask is not None for mask in masks]
            if not (any(given) and self.width):
                return None
        everything = np.ones(self.width, bool)
        return np.stack([self.one(mask) if there else everything for mask, there in zip(masks, given, strict=True)])

    def one(self, mask: Any) -> Bools:
        """One mask `(A,)`, the parts of a tuple joined.

        Raises:
            ValueError: its size does not fit the action space.
        """
        parts = mask if isinstance(mask, tuple | list) else (mask,)
        array = np.concatenate([np.ravel(part) for part in parts]) != 0
        if array.shape != (self.width,):
            raise ValueError(f"an action mask of {array.size} numbers does not fit {self.action_space}: {self.width}")
        return np.asarray(array)

    def without_choice(self, mask: Bools) -> int | None:
        """The first environment whose mask leaves no legal action, or none in some component; else None."""
        if len(self.sizes) == 1:
            possible = mask.any(1)
        else:
            bounds = np.cumsum((0, *self.sizes))
            possible = np.all([mask[:, start:end].any(1) for start, end in pairwise(bounds)], axis=0)
        return None if possible.all() else int(np.argmin(possible))

    def some_choice(self, mask: Bools, step: int) -> None:
        """Raises EnvironmentFailure for masks that leave no legal action."""
        row = self.without_choice(mask)
        if row is not None:
            which = f" (environment {row} of {self.num_envs})" if self.num_envs > 1 else ""
            raise EnvironmentFailure(f"the action mask leaves no legal action after step {step}{which}")
