"""A scripted environment that says which actions are legal, and refuses the others.

Nothing here uses agentlib: it is the other side of the comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.experience.scripted import VECTOR, Script, Scripted


def sizes_of(action_space: spaces.Space) -> list[int]:
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    assert isinstance(action_space, spaces.MultiDiscrete)
    return action_space.nvec.tolist()


def legal(action_space: spaces.Space, number: int, episode: int, t: int) -> list[np.ndarray] | None:
    """The mask of each component at a step of an episode of an environment; None where it says nothing."""
    dice = np.random.default_rng([number, episode, t])
    if dice.random() < 0.15:
        return None
    masks = [dice.random(size) < 0.4 for size in sizes_of(action_space)]
    for mask in masks:
        mask[dice.integers(len(mask))] = True
    return masks


class Masked(Scripted):
    """Its observations say environment, episode and step; the masks follow from these alone.

    Args:
        number: of the environment.
        script: of its episodes.
        action_space: Discrete or MultiDiscrete.
        where: "info", "parts" (in the info, one array per component) or "observation" (in a Dict).
    """

    def __init__(self, number: int, script: Script, action_space: spaces.Space, where: str = "info") -> None:
        super().__init__(number, script, VECTOR, action_space)
        self.where, self.ended = where, False
        if where == "observation":
            mask = spaces.MultiBinary(sum(sizes_of(action_space)))
            self.observation_space = spaces.Dict(action_mask=mask, where=VECTOR)

    def mask(self) -> list[np.ndarray] | None:
        masks = legal(self.action_space, self.number, self.episode, self.t)
        if self.ended:  # no action is legal when the task has ended
            return [np.zeros(size, bool) for size in sizes_of(self.action_space)]
        if masks is None and self.where == "observation":
            return [np.ones(size, bool) for size in sizes_of(self.action_space)]
        return masks

    def told(self) -> tuple[Any, dict[str, Any]]:
        observation, mask = np.array([self.number, self.episode, self.t], np.float32), self.mask()
        if self.where == "observation":
            assert mask is not None
            return {"where": observation, "action_mask": np.concatenate(mask).astype(np.int8)}, {}
        if mask is None:
            return observation, {}
        return observation, {"action_mask": tuple(mask) if self.where == "parts" else np.concatenate(mask)}

    def reset(self, *, seed=None, options=None):
        self.episode, self.t, self.ended = self.episode + 1, 0, False
        return self.told()

    def step(self, action):
        masks = self.mask()
        chosen = np.ravel(np.asarray(action) - getattr(self.action_space, "start", 0))
        if masks is not None:
            assert all(mask[index] for mask, index in zip(masks, chosen, strict=True)), f"{action} is illegal"
        length, ending = self.script[self.episode % len(self.script)]
        self.t += 1
        self.ended = self.t == length and ending != "truncated"
        truncated = self.t == length and ending != "terminated"
        return (*self.told()[:1], 1.0, self.ended, truncated, self.told()[1])
