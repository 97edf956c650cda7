"""Which actions are legal: masks that environments give in their infos, or as a part of Dict observations.

A mask is an array `(A,)`, nonzero where an action is legal. A is the number of actions of a Discrete space; for
MultiDiscrete it is the sum over the components, whose masks stand side by side (a tuple of them, as Gymnasium's
`space.sample` takes it, is joined). An environment that gives no mask allows everything.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.spaces import ACTION_MASK, choices, observed_mask, observes_mask

Bools = NDArray[np.bool_]


class Masks:
    """Reads the masks of n environments.

    Args:
        observation_space: of one environment.
        action_space: of one environment.
        single: infos are of one environment that is no vector environment.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], single: bool = True
    ) -> None:
        self.action_space, self.sizes, self.single = action_space, choices(action_space), single
        self.width = sum(self.sizes)
        self.observed = observes_mask(observation_space, action_space)

    def read(self, observation: Any, info: Any) -> Bools | None:
        """The masks `(n, A)` that came with batched observations; None if none came.

        Args:
            observation: batched.
            info: of a single environment, of a Gymnasium vector environment, or a list of infos.

        Raises:
            ValueError: a mask of another size than the action space.
        """
        if self.observed:
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
