"""Wrappers that Gymnasium does not have."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import seeding

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class SeededGame(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An Atari game without chance of its own, below `AtariPreprocessing`; a seed doesn't load it again.

    Loading takes as long as 2,000 frames. Here all games start from one state of the emulator. What is left to chance
    around it, the no-ops before a game and sticky actions, draws from `np_random`, which is seeded.

    The preprocessing takes the screens that it needs from the emulator itself, and of the space only their sides. So
    the observations of each frame may be anything; the emulator's memory is the quickest.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        chance = self.unwrapped.np_random
        self.unwrapped.reset(seed=0)
        self._start: Any = self.ale.cloneState()
        self.unwrapped.np_random = chance  # until it is seeded
        self.observation_space = gymnasium.spaces.Box(0, 255, self.ale.getScreenDims(), np.uint8)

    @property
    def ale(self) -> Any:
        """The emulator, which cannot be pickled: so it is no attribute."""
        return self.unwrapped.ale  # type: ignore[attr-defined]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = self.env.reset(options=options)
        if seed is not None:
            self.ale.restoreState(self._start)  # a reset by itself leaves some games' random numbers as they are
            self.unwrapped.np_random = seeding.np_random(seed)[0]
        return found


class EpisodicLife(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Ends an episode of an Atari game with each lost life; the game itself goes on (Mnih et al. 2015, methods).

    A reset after a lost life only does nothing for one frame, so that later lives are learned from as well.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._lives, self._game_over = 0, True

    @property
    def goes_on(self) -> bool:
        """Whether a reset without a seed would go on with the same game."""
        return not self._game_over

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self._game_over or seed is not None:
            observation, info = self.env.reset(seed=seed, options=options)
        else:
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        self._lives, self._game_over = int(info.get("lives", 0)), False
        return observation, info

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._game_over = terminated or truncated
        lives = int(info.get("lives", 0))
        lost, self._lives = 0 < lives < self._lives, lives
        return observation, reward, terminated or lost, truncated, info


class FireOnReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE after a reset in Atari games that stand still until it is pressed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.env.reset(seed=seed, options=options)
        observation, _, terminated, truncated, info = self.env.step(1)
        return self.env.reset(options=options) if terminated or truncated else (observation, info)


class Signed(gymnasium.RewardWrapper[Any, Any]):
    """Rewards cut to their sign (Mnih et al. 2015, methods)."""

    def reward(self, reward: SupportsFloat) -> float:
        value = float(reward)
        return float((value > 0) - (value < 0))
