"""Demonstrations as a source: labelled steps, or chunks of episodes for policies with a memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.backbones import AfterAction
from agentlib.core import Clock
from agentlib.core.source import Source
from agentlib.core.spaces import action_from_space, leaf_dtype, leaf_shape, leaf_spaces, unflatten
from agentlib.experience.demonstrations import Demonstrations


class Labelled(NamedTuple):
    """A batch of observations with the expert's actions; chunks of T steps have axes `(B, T)` in place of `(B,)`."""

    observation: Any
    """`(B, *shape)` or `(B, T, *shape)` in each leaf; in an `AfterAction` for policies that read the last action."""
    action: Tensor
    """`(B, ...)` or `(B, T, ...)`: what the expert would do; indices from 0 for discrete actions."""
    weight: Tensor
    """`(B,)` or `(B, T)` float32: 1 where there is a label, 0 where the expert was not asked or the episode is over."""
    episode_start: Tensor
    """`(B,)` or `(B, T)` bool: where a memory is reset, which is the first step of each chunk."""
    clock: Clock = Clock(0, 0, 0.0)


class Feed(nn.Module):
    """Chooses rows of demonstrations and copies them into tensors of fixed shapes.

    The demonstrations stay where they are, in memory of the host, and may grow: call `refresh` then. Single steps come
    once per epoch, in a new order each time; a batch may hold the end of one epoch and the start of the next. Chunks
    are sampled from episodes in proportion to their lengths: a share of them from the start of its episode, the others
    from anywhere. The arguments are those of `DemonstrationBatches`.
    """

    action: Tensor
    previous_action: Tensor
    weight: Tensor
    episode_start: Tensor

    def __init__(
        self,
        demonstrations: Demonstrations,
        batch_size: int,
        sequence_length: int | None = None,
        from_start: float = 0.5,
        with_actions: bool = False,
    ) -> None:
        super().__init__()
        self.demonstrations, self.batch_size = demonstrations, batch_size
        self.sequence_length, self.from_start = sequence_length, from_start
        self.with_actions = with_actions and sequence_length is not None
        axes = (batch_size,) if sequence_length is None else (batch_size, sequence_length)
        layout = {
            f"leaf_{i}": (leaf_shape(leaf), leaf_dtype(leaf))
            for i, leaf in enumerate(leaf_spaces(demonstrations.observation_space))
        }
        self._leaves = list(layout)
        action = action_from_space(demonstrations.action_space, demonstrations.column("label")[:0])
        layout |= {"action": (action.shape[1:], action.dtype)}
        layout |= {"previous_action": (action.shape[1:], action.dtype)} if self.with_actions else {}
        layout |= {"weight": ((), np.dtype(np.float32)), "episode_start": ((), np.dtype(np.bool_))}
        for name, (shape, dtype) in layout.items():
            self.register_buffer(name, torch.from_numpy(np.zeros((*axes, *shape), dtype)))
        self.weight += 1.0
        self.episode_start.view(batch_size, -1)[:, 0] = True
        self.queue = np.zeros(0, np.int64)  # labelled steps of this epoch that are still to come
        self.refresh()

    def refresh(self) -> None:
        """Takes in the episodes that were added to the demonstrations; a new epoch begins."""
        demonstrations = self.demonstrations
        self._first_step, self._first_frame = demonstrations.first_rows
        self._length = demonstrations.lengths
        labelled = demonstrations.column("labelled")
        episode = np.repeat(np.arange(len(self._length)), self._length)  # (steps,)
        begin = np.cumsum(self._length) - self._length
        within = np.arange(len(episode)) - begin[episode]
        step = self._first_step[episode] + within
        known = labelled[step]
        self._step, self._frame = step[known], (self._first_frame[episode] + within)[known]
        self.queue = np.zeros(0, np.int64)

    @property
    def epoch_updates(self) -> int:
        """Updates that go once through the labelled steps, rounded up."""
        return -(-len(self._step) // (self.batch_size * (self.sequence_length or 1)))

    def choose(self, generator: np.random.Generator) -> None:
        """Fills the tensors with the next batch.

        Raises:
            ValueError: there are no labelled steps.
        """
        if not len(self._step):
            raise ValueError("there are no labelled steps to learn from")
        step, frame = self._steps(generator) if self.sequence_length is None else self._chunks(generator)
        columns = zip(self._leaves, self.demonstrations.observation_columns, strict=True)
        for name, column in columns:
            self._fill(name, column[frame])
        labels = self.demonstrations.column("label")[step]
        self._fill("action", action_from_space(self.demonstrations.action_space, labels))

    def _fill(self, name: str, rows: NDArray[Any]) -> None:
        getattr(self, name).copy_(torch.from_numpy(np.ascontiguousarray(rows)))

    def _steps(self, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        while len(self.queue) < self.batch_size:
            self.queue = np.concatenate([self.queue, generator.permutation(len(self._step))])
        rows, self.queue = self.queue[: self.batch_size], self.queue[self.batch_size :]
        return self._step[rows], self._frame[rows]

    def _chunks(self, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        assert self.sequence_length is not None
        share = self._length / self._length.sum()
        episode = generator.choice(len(share), size=self.batch_size, p=share)
        length = self._length[episode]
        latest = np.maximum(length - self.sequence_length, 0)
        begin = (generator.random(self.batch_size) * (latest + 1)).astype(np.int64)
        begin[: round(self.from_start * self.batch_size)] = 0
        t = begin[:, None] + np.arange(self.sequence_length)  # (B, T)
        inside = t < length[:, None]
        t = np.minimum(t, length[:, None] - 1)
        step = self._first_step[episode][:, None] + t
        self._fill("weight", self.demonstrations.column("labelled")[step] & inside)
        if self.with_actions:
            space, done = self.demonstrations.action_space, self.demonstrations.column("action")
            previous = action_from_space(space, done[np.maximum(step - 1, 0)])
            previous[t == 0] = 0 if isinstance(space, spaces.Box) else -1  # there was none yet
            self._fill("previous_action", previous)
        return step, self._first_frame[episode][:, None] + t

    def batch(self, clock: Clock) -> Labelled:
        """The chosen batch."""
        leaves = [getattr(self, name) for name in self._leaves]
        observation = unflatten(self.demonstrations.observation_space, leaves)
        if self.with_actions:
            observation = AfterAction(observation, self.previous_action)
        return Labelled(observation, self.action, self.weight, self.episode_start, clock)

    def get_extra_state(self) -> dict[str, Any]:
        """The rest of this epoch."""
        return {"queue": self.queue}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        self.queue = np.asarray(state["queue"]).copy()


class DemonstrationBatches(Source):
    """Batches of demonstrations that are complete from the start.

    Args:
        demonstrations: the episodes to learn from.
        batch_size: steps, or chunks, per batch.
        sequence_length: steps per chunk, for policies with a memory; None for single steps.
        from_start: share of the chunks that begin where their episode does.
        with_actions: give the observations of chunks as `AfterAction`, for policies that read the last action.
        seed: of the order.

    Raises:
        ValueError: no labelled steps.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        batch_size: int = 32,
        *,
        sequence_length: int | None = None,
        from_start: float = 0.5,
        with_actions: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not demonstrations.labels:
            raise ValueError("there are no labelled steps to learn from")
        self.feed = Feed(demonstrations, batch_size, sequence_length, from_start, with_actions)

    def updates_for(self, epochs: float) -> int:
        """Number of updates in these passes over the labelled steps, rounded up."""
        return max(round(epochs * self.feed.epoch_updates), 1)

    def fingerprint(self) -> str:
        return self.feed.demonstrations.fingerprint()

    def advance(self) -> None:
        """Chooses the next batch."""
        self.feed.choose(self.generator)

    def sample(self) -> Labelled:
        """The chosen batch."""
        return self.feed.batch(self.batch_clock)
