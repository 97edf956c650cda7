"""Checks of each observation and mask: nothing is learned from NaN, other shapes or impossible masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from agentlib.core.spaces import finite_sum, flatten, leaf_shape, leaf_spaces
from agentlib.envs.masks import Bools, Masks


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


def pair_of(found: Any) -> tuple[Any, dict[str, Any]]:
    """The observation and the info that a reset gave."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise EnvironmentFailure("the environment's reset gave no pair (observation, info)")
    observation, info = found
    return observation, info


class Checks:
    """Checks of the observations and masks of n environments.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        num_envs: n.
        single: the environment is no vector environment; its infos are those of one.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], num_envs: int, single: bool
    ) -> None:
        self.space, self.num_envs = observation_space, num_envs
        self.masks = Masks(observation_space, action_space, single=single)
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

    def mask(self, observation: Any, info: Any, step: int) -> Bools | None:
        """The legal actions `(n, A)` in observations or infos; None if they have none."""
        try:
            return self.masks.read(observation, info)
        except ValueError as error:
            raise EnvironmentFailure(f"at step {step} the environment gave {error}") from None

    def some_choice(self, mask: Bools | None, step: int) -> None:
        """Raises EnvironmentFailure for masks that leave no legal action."""
        row = None if mask is None else self.masks.without_choice(mask)
        if row is not None:
            which = f" (environment {row} of {self.num_envs})" if self.num_envs > 1 else ""
            raise EnvironmentFailure(f"the action mask leaves no legal action after step {step}{which}")
