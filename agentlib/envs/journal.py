"""What brings an environment back to where it was: the seed of its last seeded reset, and what was done since."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

BYTES = 2**27
"""That a journal may hold, twice over for what is still needed of it."""


class Journal:
    """Seeds, actions and rewards since the last seeded reset of each lane.

    A lane is what can be seeded by itself: a single environment, or a vector environment as a whole. What is older than
    the oldest of these resets is dropped, so that the journal is as long as the longest episode under way.

    Args:
        lanes: how many.
        limit: steps after which a lane is given up: it would take too long to play them again. There are fewer where a
            step has many numbers, as of thousands of environments, so that they fit into `BYTES`.
    """

    def __init__(self, lanes: int, limit: int = 2**20) -> None:
        self.limit = limit
        self.seeds = [0] * lanes
        self.starts: dict[int, int] = {}
        """The row of the first action of each lane that can be brought back."""
        self.length = 0
        self._actions: NDArray[Any] = np.empty((0, lanes))
        self._rewards: NDArray[Any] = np.empty((0, lanes))

    def begin(self, lane: int, seed: int | None) -> None:
        """The lane was reset with this seed, or without one, and cannot be brought back."""
        self.seeds[lane] = seed or 0
        self.starts.pop(lane, None)
        if seed is not None:
            self.starts[lane] = self.length
        if min(self.starts.values(), default=self.length) == self.length:  # nothing before is needed
            self.starts, self.length = dict.fromkeys(self.starts, 0), 0

    def note(self, action: NDArray[Any], reward: NDArray[Any]) -> None:
        """Takes in one step of all lanes; at every step of an environment, so there is little to it."""
        if self.length == len(self._rewards):  # there is no room left: only what is needed moves to a larger one
            self.limit = min(self.limit, BYTES // max(np.asarray(action).nbytes + reward.nbytes, 1))
            kept = {lane: start for lane, start in self.starts.items() if start > self.length - self.limit}
            first = min(kept.values(), default=self.length)
            self.starts = {lane: start - first for lane, start in kept.items()}
            actions, rewards = self._actions[first:], self._rewards[first:]
            self.length = len(rewards)
            rows = max(2 * self.length, 1024)
            self._actions = np.empty((rows, *np.shape(action)), action.dtype)
            self._rewards = np.empty((rows, *reward.shape))
            if self.length:
                self._actions[: self.length], self._rewards[: self.length] = actions, rewards
        self._actions[self.length] = action
        self._rewards[self.length] = reward
        self.length += 1

    def since(self, lane: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Actions `(t, n, ...)` and rewards `(t, n)` since the lane was seeded; None if it cannot be brought back."""
        if lane not in self.starts:
            return None
        rows = slice(self.starts[lane], self.length)
        return self._actions[rows], self._rewards[rows]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        first = min(self.starts.values(), default=self.length)
        return {
            "seeds": list(self.seeds),
            "starts": [self.starts[lane] - first if lane in self.starts else None for lane in range(len(self.seeds))],
            "actions": self._actions[first : self.length].copy(),
            "rewards": self._rewards[first : self.length].copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.seeds = list(state["seeds"])
        self.starts = {lane: start for lane, start in enumerate(state["starts"]) if start is not None}
        self._actions, self._rewards = np.array(state["actions"]), np.array(state["rewards"])
        self.length = len(self._rewards)


class Diverged(Exception):
    """An environment did something else when it was played again."""


def retrace(
    env: gymnasium.Env[Any, Any], seed: int, actions: NDArray[Any], rewards: NDArray[Any]
) -> tuple[Any, dict[str, Any]]:
    """Plays an episode of a single environment again; returns its last observation and info.

    Args:
        env: the environment.
        seed: of its reset.
        actions: `(t, ...)`, as it takes them.
        rewards: `(t,)`: what they gave.

    Raises:
        Diverged: a reward differs, or the episode ends before its last step.
    """
    observation, info = env.reset(seed=seed)
    for action, reward in zip(actions, rewards, strict=True):
        observation, given, terminated, truncated, info = env.step(action.copy())
        require_same(given, reward, "reward")
        if terminated or truncated:
            if not goes_on(env):
                raise Diverged("its episode ended earlier")
            observation, info = env.reset()
    return observation, info


def require_same(given: Any, before: Any, what: str) -> None:
    """Raises `Diverged` unless two arrays are equal bit for bit, NaN included."""
    before = np.asarray(before)
    given = np.asarray(given, before.dtype)
    if given.shape != before.shape or given.tobytes() != before.tobytes():
        raise Diverged(f"played again, its {what} is another one")


def goes_on(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether the next reset without a seed would be none, since only a life was lost."""
    layer: Any = env
    while True:
        lost_a_life = hasattr(type(layer), "goes_on") and layer.goes_on
        if lost_a_life or not getattr(layer, "was_real_done", True):  # the latter: SB3's EpisodicLifeEnv
            return True
        if not isinstance(layer, gymnasium.Wrapper):
            return False
        layer = layer.env
