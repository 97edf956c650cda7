"""What brings an environment back to where it was: the seed of its last seeded reset, and what was done since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Journal:
    """Seeds, actions and rewards since the last seeded reset of each lane.

    A lane is what can be seeded by itself: a single environment, or a vector environment as a whole. What is older than
    the oldest of these resets is dropped, so that the journal is as long as the longest episode under way.

    Args:
        lanes: how many.
        limit: steps after which a lane is given up: it would take too long to play them again.
    """

    def __init__(self, lanes: int, limit: int = 2**20) -> None:
        self.limit = limit
        self.seeds = [0] * lanes
        self.starts: list[int | None] = [None] * lanes
        """The row of each lane's first action; None where it cannot be brought back."""
        self.length = 0
        self._actions: NDArray[Any] = np.empty((0, lanes))
        self._rewards: NDArray[Any] = np.empty((0, lanes))

    def begin(self, lane: int, seed: int | None) -> None:
        """The lane was reset with this seed, or without one, and cannot be brought back."""
        self.seeds[lane], self.starts[lane] = seed or 0, None if seed is None else self.length
        if all(start in (None, self.length) for start in self.starts):
            self.starts = [None if start is None else 0 for start in self.starts]
            self.length = 0

    def note(self, action: NDArray[Any], reward: NDArray[Any]) -> None:
        """Takes in one step of all lanes; at every step of an environment, so there is little to it."""
        if self.length == len(self._rewards):
            self._make_room(action, reward)
        self._actions[self.length] = action
        self._rewards[self.length] = reward
        self.length += 1

    def _make_room(self, action: NDArray[Any], reward: NDArray[Any]) -> None:
        long = self.length - self.limit
        self.starts = [None if start is None or start <= long else start for start in self.starts]
        first = min((start for start in self.starts if start is not None), default=self.length)
        actions, rewards = self._actions[first : self.length], self._rewards[first : self.length]
        rows = max(2 * len(rewards), 1024)
        self._actions, self._rewards = (
            np.empty((rows, *np.shape(action)), action.dtype),
            np.empty((rows, *reward.shape)),
        )
        self.length = len(rewards)
        if self.length:
            self._actions[: self.length], self._rewards[: self.length] = actions, rewards
        self.starts = [None if start is None else start - first for start in self.starts]

    def since(self, lane: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Actions `(t, n, ...)` and rewards `(t, n)` since the lane was seeded; None if it cannot be brought back."""
        start = self.starts[lane]
        return None if start is None else (self._actions[start : self.length], self._rewards[start : self.length])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        first = min((start for start in self.starts if start is not None), default=self.length)
        return {
            "seeds": list(self.seeds),
            "starts": [None if start is None else start - first for start in self.starts],
            "actions": self._actions[first : self.length].copy(),
            "rewards": self._rewards[first : self.length].copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.seeds, self.starts = list(state["seeds"]), list(state["starts"])
        self._actions, self._rewards = np.array(state["actions"]), np.array(state["rewards"])
        self.length = len(self._rewards)


class Diverged(Exception):
    """An environment did something else when it was played again."""


def retrace(
    env: gymnasium.Env[Any, Any],
    seed: int,
    actions: NDArray[Any],
    rewards: NDArray[Any],
    goes_on: Callable[[], bool],
) -> tuple[Any, dict[str, Any]]:
    """Plays an episode of a single environment again; returns its last observation and info.

    Args:
        env: the environment.
        seed: of its reset.
        actions: `(t, ...)`, as it takes them.
        rewards: `(t,)`: what they gave.
        goes_on: whether the next reset would be none, as `continuation` says.

    Raises:
        Diverged: a reward differs, or the episode ends before its last step.
    """
    observation, info = env.reset(seed=seed)
    for action, reward in zip(actions, rewards, strict=True):
        observation, given, terminated, truncated, info = env.step(action)
        require_same(given, reward, "reward")
        if terminated or truncated:
            if not goes_on():
                raise Diverged("its episode ended earlier")
            observation, info = env.reset()
    return observation, info


def require_same(given: Any, before: Any, what: str) -> None:
    """Raises `Diverged` unless two arrays are equal bit for bit, NaN included."""
    before = np.asarray(before)
    given = np.asarray(given, before.dtype)
    if given.shape != before.shape or given.tobytes() != before.tobytes():
        raise Diverged(f"played again, its {what} is another one")


def continuation(env: gymnasium.Env[Any, Any]) -> Callable[[], bool]:
    """A function that says whether the next reset without a seed would be none, since only a life was lost."""
    layers: list[Any] = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    ours = [layer for layer in layers if hasattr(type(layer), "goes_on")]
    theirs = [layer for layer in layers if hasattr(layer, "was_real_done")]  # SB3's EpisodicLifeEnv
    if not (ours or theirs):
        return lambda: False
    return lambda: any(layer.goes_on for layer in ours) or not all(layer.was_real_done for layer in theirs)
