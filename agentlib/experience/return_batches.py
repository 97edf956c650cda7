"""Recorded episodes with the returns that were still to come, for learners that read which return is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentlib.backbones import Prompt
from agentlib.backbones.files import checksum
from agentlib.core.source import Source
from agentlib.core.spaces import action_from_space, leaf_dtype, leaf_spaces, unflatten
from agentlib.experience.demonstration_batches import Labelled
from agentlib.experience.demonstrations import Demonstrations


def returns_to_go(rewards: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum of the rewards `(T,)` from each step on, `(T,)`."""
    return np.cumsum(rewards[::-1])[::-1]


class ReturnBatches(Source):
    """Stretches of up to `context` steps that end at a random step, each step of all episodes equally likely.

    Where an episode has fewer steps before, the stretch is padded on the left: `weight` is 0 there, and
    `episode_start` is true at the first step that is not padding. All steps live on the device.

    Args:
        demonstrations: the episodes to learn from, good and bad ones alike.
        context: T, steps per stretch.
        batch_size: stretches per batch.
        seed: of the draws.

    Raises:
        ValueError: there are no steps.
    """

    begin: Tensor
    timestep: Tensor
    return_to_go: Tensor
    action: Tensor

    def __init__(self, demonstrations: Demonstrations, context: int, batch_size: int = 64, *, seed: int = 0) -> None:
        super().__init__(seed)
        if not demonstrations.steps:
            raise ValueError("there are no steps to learn from")
        self.context, self.batch_size, self.space = context, batch_size, demonstrations.observation_space
        first_step, first_frame = demonstrations.first_rows
        length = demonstrations.lengths
        begin = np.repeat(np.cumsum(length) - length, length)  # where the episode of each step begins
        timestep = np.arange(len(begin)) - begin
        step, frame = np.repeat(first_step, length) + timestep, np.repeat(first_frame, length) + timestep
        columns: dict[str, Any] = {
            "begin": begin,
            "timestep": timestep,
            "return_to_go": np.concatenate([returns_to_go(one.rewards) for one in demonstrations]).astype(np.float32),
            "action": action_from_space(demonstrations.action_space, demonstrations.column("action")[step]),
        }
        self._leaves = [f"leaf_{i}" for i in range(len(demonstrations.observation_columns))]
        leaves = zip(self._leaves, leaf_spaces(self.space), demonstrations.observation_columns, strict=True)
        for name, leaf, column in leaves:
            columns[name] = column[frame].astype(leaf_dtype(leaf))
        for name, column in columns.items():
            # Not persistent: the data are not part of a checkpoint.
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(column)), persistent=False)

    def fingerprint(self) -> str:
        names = [*self._leaves, "begin", "action", "return_to_go"]
        return checksum("", {name: getattr(self, name) for name in names})

    def sample(self) -> Labelled:
        """A batch of stretches; the observation is a `Prompt`."""
        end = torch.randint(len(self.begin), (self.batch_size,), device=self.begin.device)
        index = end[:, None] + torch.arange(1 - self.context, 1, device=end.device)  # (B, T)
        first = self.begin[end][:, None]  # (B, 1)
        inside = index >= first
        start = index == torch.maximum(first, index[:, :1])
        index = torch.maximum(index, first)
        leaves = [getattr(self, name)[index] for name in self._leaves]
        action = self.action[index]
        prompt = Prompt(unflatten(self.space, leaves), action, self.return_to_go[index], self.timestep[index])
        return Labelled(prompt, action, inside.float(), start, self.batch_clock)
