"""Wrappers that Gymnasium does not have."""

from __future__ import annotations

import copy
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from agentlib.core.spaces import ACTION_MASK
from agentlib.envs.checks import number_of, truth_of

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class Checked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose rewards are numbers and whose flags are truth values, or else `Unfit` is raised.

    What the end of an episode gave is copied, since the environment may write the reset into the same arrays; vector
    environments that reset in the same step do not.
    """

    def step(self, action: Any) -> Step:
        found = observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated is truncated is False and type(reward) is float:
            return found  # as at most steps: nothing to check
        terminated, truncated = truth_of(terminated, "terminated"), truth_of(truncated, "truncated")
        if terminated or truncated:
            masks = {key: value for key, value in info.items() if key == ACTION_MASK}
            observation, info = copy.deepcopy(observation), {**info, **copy.deepcopy(masks)}
        return observation, number_of(reward), terminated, truncated, info


class CheckedSteps:
    """Steps a vector environment; while it does, the environments inside, if they are in this process, are `Checked`.

    Afterwards the vector environment is as it was.
    """

    def __init__(self, env: Any) -> None:
        self.env, self.owner = env, getattr(env, "unwrapped", env)
        inner: Any = getattr(self.owner, "envs", None)
        is_list = isinstance(inner, list) and all(isinstance(one, gymnasium.Env) for one in inner)
        self.checked = [Checked(one) for one in inner] if is_list else None

    def __call__(self, action: NDArray[Any]) -> Any:
        """The result of `env.step` with a copy of the action, which the environments may change."""
        if self.checked is None:
            return self.env.step(action.copy())
        envs, self.owner.envs = self.owner.envs, self.checked
        try:
            return self.env.step(action.copy())
        finally:
            self.owner.envs = envs


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
