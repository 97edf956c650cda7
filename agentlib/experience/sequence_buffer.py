"""Replay memory for policies with memory: stretches of experience, each with the state that the actor had at its start.

Each environment writes one stream of frames. An episode is its observations, the final one included, one frame each;
a frame knows the action that was taken on it, except the last of an episode. A sequence is a stretch of a stream, and
may hold the end of one episode and the start of the next: `episode_start` says where memory is reset, `weight` where
nothing was done. What follows a step is then always the next frame.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.backbones import AfterAction
from agentlib.core import Clock
from agentlib.core.spaces import action_dtype, leaf_dtype, leaf_shape, leaf_spaces, observed_mask, unflatten
from agentlib.core.trees import leaves, mapped
from agentlib.experience.memory import Columns, ReplayMemory, uniform_positions


class Sequences(NamedTuple):
    """A batch of sequences of T steps, and the frame after the last step."""

    observation: Any
    """`(B, T + 1, *shape)` in each leaf; in an `AfterAction` with the action before each, if the buffer says so."""
    action: Tensor
    """`(B, T)` or `(B, T, *shape)`: indices from 0 for Discrete actions."""
    reward: Tensor
    """`(B, T)` float32."""
    terminated: Tensor
    """`(B, T)` float32, 1 where the step ended the task; not where it was only cut off."""
    weight: Tensor
    """`(B, T)` float32: 0 at the last frame of an episode, where nothing was done, else 1."""
    episode_start: Tensor
    """`(B, T + 1)` bool: where memory is reset before the frame is read."""
    state: Any
    """The actor's state before the first frame: a tree of tensors `(B, ...)`."""
    clock: Clock = Clock(0, 0, 0.0)
    mask: Tensor | None = None
    """`(B, T + 1, A)` bool: the legal actions at each frame; None where the environment gives no masks."""


class SequenceBuffer(ReplayMemory):
    """The last `buffer_size` frames of n environments, in preallocated columns; sequences start at every `period`-th.

    Args:
        observation_space: of one environment: Box, Discrete, MultiDiscrete, MultiBinary, nested in Dict and Tuple.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        buffer_size: frames, over all environments.
        sequence_length: T, the steps of a sequence.
        state: the actor's state before anything was seen, for one environment: a tree of tensors `(1, ...)`.
        period: frames from the start of one sequence to the start of the next.
        with_actions: give observations as `AfterAction`, for policies that read both.
        keep_states: keep the actor's state for the start of each sequence; otherwise all start with `state`.
        num_envs: environments that write side by side.
        device: where the columns live.

    Raises:
        MemoryError: the columns would not fit into the free memory; the message says what would.
        ValueError: the buffer is too small for one sequence of each environment.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        buffer_size: int,
        *,
        sequence_length: int,
        state: Any,
        period: int = 8,
        with_actions: bool = False,
        keep_states: bool = True,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        starts = buffer_size // num_envs // period  # of sequences, per environment
        if starts * period < sequence_length + period:
            raise ValueError(
                f"buffer_size={buffer_size} is too small for sequences of {sequence_length} steps in {num_envs} "
                f"environments: it must be at least {num_envs * (sequence_length + 2 * period)}"
            )
        kept_states, states = starts if keep_states else 1, leaves(state)

        def columns_for(size: int) -> Columns:
            starts = size // num_envs // period
            rows, boolean = (num_envs, starts * period), np.dtype(np.bool_)
            (action,) = leaf_spaces(action_space)
            of_action = (*rows, *leaf_shape(action)), action_dtype(action)
            columns: Columns = {
                f"frame_{i}": ((*rows, *leaf_shape(leaf)), leaf_dtype(leaf))
                for i, leaf in enumerate(leaf_spaces(observation_space))
            }
            columns |= {"action": of_action, "previous_action": of_action, "reward": (rows, np.dtype(np.float32))}
            columns |= {"terminated": (rows, boolean), "last": (rows, boolean), "start": (rows, boolean)}
            for i, part in enumerate(states):
                kept = starts if keep_states else 1
                columns[f"state_{i}"] = (num_envs, kept, *part.shape[1:]), part.new_zeros(0).cpu().numpy().dtype
            return columns

        super().__init__(observation_space, action_space, buffer_size, columns_for, device)
        self.layout = {"num_envs": num_envs, "frames": self.frame_capacity, "period": period}
        self.sequence_length, self.period, self.with_actions = sequence_length, period, with_actions
        self.keep_states, self.kept_states = keep_states, kept_states
        self._state = mapped(state, Tensor.detach)
        self._states = [f"state_{i}" for i in range(len(states))]
        for name, part in zip(self._states, states, strict=True):
            getattr(self, name).copy_(part[0].detach())
        self.register_buffer("window", torch.zeros(num_envs, dtype=torch.int64, device=device), persistent=False)
        self.no_action = 0 if isinstance(action_space, spaces.Box) else -1

    def __len__(self) -> int:
        """Frames that are there."""
        return sum(min(count, self.frame_capacity) for count in self._frames)

    # Writing -----------------------------------------------------------------------------------------------------

    def begin(
        self, observation: Any, where: NDArray[np.bool_] | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Starts an episode with its first observation, batched, in the environments `where` (all by default).

        `mask (n, A)` says which actions are legal there; without it, all are.
        """
        parts = self._leaves(observation)
        for row in range(self.num_envs) if where is None else np.flatnonzero(where).tolist():
            self._append(row, parts, None if mask is None else mask[row], True, self.no_action)

    def add(
        self,
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: Any,
        valid: NDArray[np.bool_] | None = None,
        next_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Stores what was done on the newest frame of each environment, and the frame that followed; all are batched.

        `next_observation` is what the action led to, the final observation included, and `next_mask (n, A)` says which
        actions are legal there; whether an episode was cut off need not be known, since the next frame says so. Rows
        that are not `valid` are left out.
        """
        parts = self._leaves(next_observation)
        for row in range(self.num_envs) if valid is None else np.flatnonzero(valid).tolist():
            columns, slot = self._rows[row], (self._frames[row] - 1) % self.frame_capacity
            columns["action"][slot] = action[row]
            columns["reward"][slot] = reward[row]
            columns["terminated"][slot] = terminated[row]
            columns["last"][slot] = False
            self._append(row, parts, None if next_mask is None else next_mask[row], False, action[row])

    def _append(
        self, row: int, parts: list[NDArray[Any]], mask: NDArray[np.bool_] | None, start: bool, previous_action: Any
    ) -> None:
        columns, slot = self._rows[row], self._frames[row] % self.frame_capacity
        for name, part in zip(self._names, parts, strict=True):
            columns[name][slot] = part[row]
        columns["previous_action"][slot] = previous_action
        columns["start"][slot] = start
        columns["last"][slot] = True  # until something is done on it
        self._frames[row] += 1
        if mask is not None or self.masked:
            self._write_mask(row, mask)

    def keep_state(self, state: Any) -> None:
        """Keeps the state `(n, ...)` in which the actor reads the newest frames, where sequences start at them."""
        if not self.keep_states:
            return
        for row, count in enumerate(self._frames):
            start, after = divmod(count - 1, self.period)
            if after == 0:
                for name, part in zip(self._states, leaves(state), strict=True):
                    self._rows[row][name][start % self.kept_states] = part[row].detach()

    def flush(self) -> None:
        """Makes what was written visible to `draw`: call it after a series of `begin` and `add`."""
        self.window.copy_(torch.tensor(self._frames, device="cpu"))

    # Reading: tensor work of fixed shapes ------------------------------------------------------------------------

    def draw(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Environments `(B,)` and numbers of the first frames `(B,)` of sequences, all equally likely."""
        oldest = (self.window - self.frame_capacity).clamp(min=0)
        first = torch.div(oldest + self.period - 1, self.period, rounding_mode="floor")  # (num_envs,)
        last = torch.div(self.window - self.sequence_length - 1, self.period, rounding_mode="floor")
        counts = (last - first + 1).clamp(min=0)
        row, position = uniform_positions(counts, batch_size)
        return row, (first[row] + position) * self.period

    def gather(self, row: Tensor, number: Tensor) -> Sequences:
        """The sequences whose first frames are `number (B,)` of the environments `row (B,)`."""
        frames = number[:, None] + torch.arange(self.sequence_length + 1, device=row.device)  # (B, T + 1)
        index = row[:, None] * self.frame_capacity + frames % self.frame_capacity
        column = {name: self._flat(name)[index] for name in [*self._names, "previous_action", "start"]}
        steps = {name: self._flat(name)[index[:, :-1]] for name in ("action", "reward", "terminated", "last")}
        start = torch.div(number, self.period, rounding_mode="floor")
        kept = row * self.kept_states + start % self.kept_states
        states = iter([self._flat(name)[kept] for name in self._states])
        observation = unflatten(self.observation_space, [column[name] for name in self._names])
        mask = self._flat("mask")[index] if self.masked else None  # (B, T + 1, A)
        if self.masks_observed:
            mask = observed_mask(observation, self.n_choices, leading_axes=2)
        return Sequences(
            observation=AfterAction(observation, column["previous_action"]) if self.with_actions else observation,
            action=steps["action"],
            reward=steps["reward"],
            terminated=steps["terminated"].float(),
            weight=1.0 - steps["last"].float(),
            episode_start=column["start"],
            state=mapped(self._state, lambda _: next(states)),
            mask=mask,
        )

    def _flat(self, name: str) -> Tensor:
        column: Tensor = getattr(self, name)
        return column.flatten(0, 1)

    # State -------------------------------------------------------------------------------------------------------

    def _counts(self, name: str) -> list[int]:
        return [-(-count // self.period) if name in self._states else count for count in self._frames]

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; raises what `ReplayMemory` raises."""
        if state["layout"] != self.layout and max(state["frames"]) > state["layout"].get("frames", 0):
            raise ValueError("the state is of a full buffer, which only one of the same size can go on with")
        super().set_extra_state(state)
