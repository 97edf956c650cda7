"""What an environment shows, as examples to pretrain on: no rewards, no expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from agentlib.data.datasets import Dataset
from agentlib.envs.making import EnvLike, make_env

CATCH_FRAMES = 10_000


def frames(env: EnvLike, n: int, *, seed: int = 0, env_kwargs: dict[str, Any] | None = None) -> Dataset:
    """n observations under random actions, unlabelled: images `(n, C, H, W)` between 0 and 1, or vectors `(n, d)`.

    Args:
        env: an environment's id, a single environment, or a function that makes one; its observations are a Box.
        n: how many.
        seed: of the environment and the actions.
        env_kwargs: for the environment's constructor.

    Raises:
        ValueError: observations that are no Box.
    """
    made = make_env(env, env_kwargs=env_kwargs)
    try:
        space = made.observation_space
        if not isinstance(space, spaces.Box):
            raise ValueError(f"frames are taken of Box observations, not of {space}")
        made.action_space.seed(seed)
        seen = [made.reset(seed=seed)[0]]
        while len(seen) < n:
            observation, _, terminated, truncated, _ = made.step(made.action_space.sample())
            seen.append(made.reset()[0] if terminated or truncated else observation)
    finally:
        if made is not env:
            made.close()
    x = torch.from_numpy(np.stack(seen))
    if space.dtype != np.uint8:
        return Dataset(x.float())
    if x.dim() == 3:
        x = x[:, None]  # (n, 1, H, W)
    elif x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.movedim(-1, 1)  # (n, C, H, W)
    return Dataset(x.float() / 255.0)


def catch_frames() -> Dataset:
    """10,000 frames of `agentlib/Catch-v0` under random play: `(N, 1, 36, 36)`, unlabelled."""
    return frames("agentlib/Catch-v0", CATCH_FRAMES)
