"""Observations of an environment, as examples to pretrain on: no rewards, no expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from agentlib.core.numbers import whole
from agentlib.data.datasets import Dataset
from agentlib.data.files import pixels
from agentlib.envs.checks import begin
from agentlib.envs.making import EnvLike, make_env
from agentlib.envs.wrappers import Checked

CATCH_FRAMES = 10_000
PATIENCE = 1_000
"""Windows' lengths of play after which no episode is taken to be as long as one."""


def frames(
    env: EnvLike, n: int, *, window: int = 1, seed: int = 0, env_kwargs: dict[str, Any] | None = None
) -> Dataset:
    """n observations under random actions, unlabelled: images `(n, C, H, W)` between 0 and 1, or vectors `(n, d)`.

    Args:
        env: an environment's id, a single environment, or a function that makes one; its observations are a Box.
        n: how many.
        window: number of consecutive observations of one episode in each example. With more than one they are on a
            second axis, `(n, window, ...)`, and `RandomFrame` makes views of them.
        seed: of the environment and the actions.
        env_kwargs: for the environment's constructor.

    Raises:
        ValueError: observations that are no Box, or episodes that are shorter than the window.
    """
    n, seed = whole("n", n, 1), whole("seed", seed)
    made = make_env(env, env_kwargs=env_kwargs)
    try:
        space = made.observation_space
        if not isinstance(space, spaces.Box):
            raise ValueError(f"frames are taken of Box observations, not of {space}")
        made.action_space.seed(seed)
        # Copies: the environment may write each observation into the same array.
        checked, episode, seen, steps = Checked(made), [np.array(begin(made, seed)[0])], [], 0
        while True:
            if len(episode) >= window:
                seen.append(np.stack(episode[-window:]))
            if len(seen) == n:
                break
            if not seen and steps > PATIENCE * window:
                raise ValueError(f"no episode of random play has {window} observations: take a smaller window")
            observation, _, terminated, truncated, _ = checked.step(made.action_space.sample())
            ended = terminated or truncated
            latest = np.array(made.reset()[0] if ended else observation)
            episode = [latest] if ended else [*episode[-window:], latest]
            steps += 1
    finally:
        if made is not env:
            made.close()
    shown = np.concatenate(seen)
    x = torch.from_numpy(pixels(shown) if shown.dtype == np.uint8 else shown.astype(np.float32))
    return Dataset(x if window == 1 else x.unflatten(0, (n, window)))


def catch_frames() -> Dataset:
    """10,000 frames of `agentlib/Catch-v0` under random play: `(N, 1, 36, 36)`, unlabelled."""
    return frames("agentlib/Catch-v0", CATCH_FRAMES)
