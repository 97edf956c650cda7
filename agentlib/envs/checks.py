"""Checks of each observation and mask: nothing is learned from NaN, other shapes or impossible masks.

A mask of legal actions is an array `(A,)`, nonzero where an action is legal; environments give it in their infos, or as
a part of Dict observations. A is the number of actions of a Discrete space; for MultiDiscrete it is the sum over the
components, whose masks stand side by side (a tuple of them, as Gymnasium's `space.sample` takes it, is joined). An
environment that gives no mask allows everything.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agentlib.core.names import shown
from agentlib.core.spaces import (
    ACTION_MASK,
    choices,
    finite_sum,
    first_outside,
    flatten,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    observed_mask,
    observes_mask,
    overflows,
)

Bools = NDArray[np.bool_]
LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Rewards are kept as float32."""
LONG_EPISODE = 30_000
"""Steps after which a warning says that an episode may never end."""
FLOAT32, BOOL = np.dtype(np.float32), np.dtype(np.bool_)


class EnvironmentFailure(RuntimeError):
    """An environment failed, or gave something that cannot be learned from."""

    saved_in: Path | None = None
    """The folder in which the run was saved."""
    step: int | None = None
    """Of the run's clock."""


def is_single(env: Any) -> TypeGuard[gymnasium.Env[Any, Any]]:
    """Whether it is one environment, and not several: those of EnvPool are instances of `gymnasium.Env` as well."""
    return isinstance(env, gymnasium.Env) and not isinstance(env, VectorEnv)


def mistake_of(error: Exception) -> str:
    """An environment's mistake, in words, by the error that came of it."""
    if isinstance(error, ValueError) and "values to unpack (expected" in str(error):
        return "gave other values than Gymnasium's (observation, reward, terminated, truncated, info)"
    if isinstance(error, KeyError):
        return f"raised, or gave an observation without {error}"
    return "raised"


def pair_of(found: Any) -> tuple[Any, Any]:
    """The observation and the info that a reset gave."""
    if not isinstance(found, tuple | list) or len(found) != 2 or not isinstance(found[1], dict):
        raise EnvironmentFailure("the environment's reset gave no pair (observation, info)")
    observation, info = found
    return observation, info


def begin(env: Any, seed: Any = None, **more: Any) -> tuple[Any, Any]:
    """The observation and the info of `env.reset`, of a single environment or a vector environment."""
    try:
        return pair_of(env.reset(seed=seed, **more))
    except TypeError as error:
        if "reset() got an unexpected keyword argument" not in str(error):
            raise
        raise EnvironmentFailure(
            f"the environment's reset takes no seed ({error}): write it as Gymnasium has it, "
            "reset(self, *, seed=None, options=None), and return (observation, info)"
        ) from error


class Unfit(ValueError):
    """Something that is no reward, or no flag; the message is what stands after "the environment gave"."""


def truth_of(flag: Any, name: str) -> bool:
    """One flag of a step; raises `Unfit` for what is neither True nor False, nor the number 1 or 0."""
    if type(flag) is bool or type(flag) is np.bool_:
        return bool(flag)
    value = np.asarray(flag)
    if value.size != 1 or value.dtype.kind not in "biuf" or value.item() not in (0, 1):
        raise Unfit(f"{name}={shown(flag)} in place of True or False")
    return bool(value.item())


def number_of(reward: Any) -> float:
    """One reward; raises `Unfit` for what is not one number."""
    if isinstance(reward, float | int):
        return float(reward)
    value = np.asarray(reward)
    if value.size != 1:
        raise Unfit(f"a reward of shape {value.shape} in place of one number")
    if value.dtype.kind not in "biuf":
        raise Unfit(f"the reward {shown(reward)} in place of a number")
    return float(value.item())


def finite_number_of(reward: Any) -> float:
    """The same, and of what is not finite in float32."""
    value = number_of(reward)
    if not abs(value) <= LARGEST_REWARD:  # also for NaN
        raise Unfit(f"the reward {value}, which is not finite in float32")
    return value


def truths_of(flags: Any, name: str, num_envs: int) -> Bools:
    """The flags `(n,)` of a vector environment; raises `Unfit`."""
    if type(flags) is np.ndarray and flags.dtype is BOOL and flags.shape == (num_envs,):
        return flags
    array = np.asarray(flags)
    if array.shape != (num_envs,):
        raise Unfit(f"{name} of shape {array.shape} in place of ({num_envs},)")
    return np.array([truth_of(flag, name) for flag in array.tolist()], np.bool_)


def numbers_of(rewards: Any, num_envs: int) -> NDArray[np.float64]:
    """The rewards `(n,)` of a vector environment; raises `Unfit`."""
    array = np.asarray(rewards)
    if array.shape != (num_envs,):
        raise Unfit(f"rewards of shape {array.shape} in place of ({num_envs},)")
    if array.dtype.kind not in "biuf":
        raise Unfit(f"the rewards {shown(array.tolist())} in place of numbers")
    return array.astype(np.float64, copy=False)


def require_num_envs(num_envs: int, *parts: Any) -> None:
    """Raises ValueError for a part of a run, such as an `EpsilonGreedy`, that is for another number of environments."""
    for part in parts:
        if (found := getattr(part, "num_envs", num_envs)) != num_envs:
            raise ValueError(
                f"{type(part).__name__} has num_envs={found}, but {num_envs} environments act side by side: "
                f"give it num_envs={num_envs}"
            )


def warn_of_length(steps: int) -> None:
    """Warns when an episode has come to `LONG_EPISODE` steps."""
    if steps == LONG_EPISODE:
        warnings.warn(
            f"an episode has not ended after {LONG_EPISODE:,} steps. If it never ends, give max_steps=N, or wrap the "
            "environment in gymnasium.wrappers.TimeLimit; on the command line, --max-steps N",
            stacklevel=3,
        )


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
        # Of each part: its space, its batched shape, the dtype in which it is kept, and those that were found to fit.
        self._leaves: list[tuple[Any, tuple[int, ...], np.dtype[Any], set[np.dtype[Any]]]] = [
            (leaf, (num_envs, *leaf_shape(leaf)), leaf_dtype(leaf), {np.dtype(leaf.dtype)})
            for leaf in leaf_spaces(observation_space)
        ]
        self._is_leaf = not isinstance(observation_space, spaces.Dict | spaces.Tuple)

    def observation(self, observation: Any, step: int) -> None:
        """Raises EnvironmentFailure for a batched observation of another shape or type, or with NaN or infinities.

        So it does for numbers that the space's dtype, or float32 in place of float64, cannot hold, and for those
        outside a Discrete, MultiDiscrete or MultiBinary space, of which no network and no table knows.
        """
        leaves = [observation] if self._is_leaf else flatten(self.space, observation)
        for leaf, (space, shape, kept, known) in zip(leaves, self._leaves, strict=True):
            if leaf.shape != shape or leaf.dtype not in known:
                if leaf.shape != shape or not np.can_cast(leaf.dtype, np.dtype(space.dtype), "same_kind"):
                    raise EnvironmentFailure(
                        f"the environment gave an observation of shape {leaf.shape[1:]} and dtype {leaf.dtype} at step "
                        f"{step}, which does not fit {space}"
                    )
                known.add(leaf.dtype)
            dtype = leaf.dtype
            if dtype.kind == "f":
                # Squares do not cancel: if their sum is small, nothing is too large.
                if finite_sum(leaf) if dtype is kept else kept is FLOAT32 and np.vdot(leaf, leaf) < LARGEST_REWARD:
                    continue
                if not np.isfinite(leaf).all():
                    kind = "NaN" if np.isnan(leaf).any() else "infinities"
                    raise EnvironmentFailure(f"the environment gave an observation with {kind} at step {step}")
            if dtype is not kept and overflows(leaf, kept):
                raise EnvironmentFailure(
                    f"the environment gave an observation with numbers that {kept} cannot hold at step {step}"
                )
            if not isinstance(space, spaces.Box) and (row := first_outside(space, leaf)) is not None:
                raise EnvironmentFailure(
                    f"the environment gave the observation {leaf[row]} at step {step}, which is not in {space}"
                )

    def masks(self, observation: Any, info: Any, step: int) -> Bools | None:
        """The masks `(n, A)` that came with batched observations; None if none came.

        Args:
            observation: batched.
            info: of a single environment, of a Gymnasium vector environment, or a list of infos.
            step: for the message.

        Raises:
            EnvironmentFailure: a mask of another size than the action space.
        """
        if self.masks_observed:
            return np.asarray(observed_mask(observation, self.width))
        if isinstance(info, dict):
            if ACTION_MASK not in info or not self.width:  # as at each step of most environments
                return None
            masks = [info[ACTION_MASK]] if self.single else info[ACTION_MASK]
            given = info.get("_" + ACTION_MASK, [True] * len(masks))
        else:
            masks = [one.get(ACTION_MASK) for one in info]
            given = [mask is not None for mask in masks]
            if not (any(given) and self.width):
                return None
        everything = np.ones(self.width, bool)
        try:
            rows = [self.one(mask) if there else everything for mask, there in zip(masks, given, strict=True)]
        except ValueError as error:
            raise EnvironmentFailure(f"at step {step} the environment gave {error}") from None
        return np.stack(rows)

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

    @staticmethod
    def joined(where: Bools, first: Bools | None, second: Bools | None) -> Bools | None:
        """Rows of `first` where it says so, of `second` elsewhere; a mask that was not given allows everything."""
        if first is None and second is None:
            return None
        first = np.ones_like(second, dtype=bool) if first is None else first
        second = np.ones_like(first, dtype=bool) if second is None else second
        return np.where(where[:, None], first, second)

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
