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
from torch import Tensor, nn

from agentlib.backbones import AfterAction
from agentlib.core import Clock
from agentlib.core.spaces import (
    choices,
    flatten,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    observed_mask,
    observes_mask,
    unflatten,
)
from agentlib.experience.memory import Columns, nbytes, refuse_what_cannot_fit
from agentlib.experience.ring import Ring


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


class SequenceBuffer(nn.Module):
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

    window: Tensor
    mask: Tensor

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
        super().__init__()
        self.observation_space, self.action_space, self.num_envs = observation_space, action_space, num_envs
        self.n_choices, self.masks_observed = sum(choices(action_space)), observes_mask(observation_space, action_space)
        self.masked = False
        self.sequence_length, self.period, self.with_actions = sequence_length, period, with_actions
        self.starts = buffer_size // num_envs // period  # per environment
        self.capacity = self.starts * period
        self.keep_states, self.kept_states = keep_states, self.starts if keep_states else 1
        if self.capacity < sequence_length + period:
            raise ValueError(
                f"buffer_size={buffer_size} is too small for sequences of {sequence_length} steps in {num_envs} "
                f"environments: it must be at least {num_envs * (sequence_length + 2 * period)}"
            )
        self._state_like: list[Tensor] = []
        self._state_tree = _numbered(state, self._state_like)
        columns = self._columns()
        self.nbytes = nbytes(columns)
        refuse_what_cannot_fit(columns, buffer_size, torch.device(device))
        for name, (shape, dtype) in columns.items():
            self.register_buffer(name, torch.from_numpy(np.zeros(shape, dtype)).to(device), persistent=False)
        for name, first in zip(self._states, self._state_like, strict=True):
            getattr(self, name).copy_(first[0])
        self._count = np.zeros(num_envs, np.int64)  # frames that each environment wrote
        self.register_buffer("window", torch.zeros(num_envs, dtype=torch.int64, device=device), persistent=False)
        self._arrays = {name: getattr(self, name).numpy() for name in columns} if self.window.is_cpu else {}
        self.no_action = 0 if isinstance(action_space, spaces.Box) else -1

    def _columns(self) -> Columns:
        rows = (self.num_envs, self.capacity)
        leaves = leaf_spaces(self.observation_space)
        (action,) = leaf_spaces(self.action_space)
        of_action = (*rows, *leaf_shape(action)), leaf_dtype(action)
        columns: Columns = {
            f"frame_{i}": ((*rows, *leaf_shape(leaf)), leaf_dtype(leaf)) for i, leaf in enumerate(leaves)
        }
        self._leaves = list(columns)
        columns |= {"action": of_action, "previous_action": of_action, "reward": (rows, np.dtype(np.float32))}
        columns |= {name: (rows, np.dtype(np.bool_)) for name in ("terminated", "last", "start")}
        states: Columns = {
            f"state_{i}": ((self.num_envs, self.kept_states, *part.shape[1:]), part.new_zeros(0).cpu().numpy().dtype)
            for i, part in enumerate(self._state_like)
        }
        self._states = list(states)
        return columns | states

    def __len__(self) -> int:
        """Frames that are there."""
        return int(np.minimum(self._count, self.capacity).sum())

    # Writing -----------------------------------------------------------------------------------------------------

    def begin(
        self, observation: Any, where: NDArray[np.bool_] | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Starts an episode with its first observation, batched, in the environments `where` (all by default).

        `mask (n, A)` says which actions are legal there; without it, all are.
        """
        rows = np.arange(self.num_envs) if where is None else np.flatnonzero(where)
        self._append(rows, observation, mask, start=True, previous_action=self.no_action)

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
        rows = np.arange(self.num_envs) if valid is None else np.flatnonzero(valid)
        slots = (self._count[rows] - 1) % self.capacity
        for name, values in (("action", action), ("reward", reward), ("terminated", terminated)):
            self._write(name, rows, slots, values[rows])
        self._write("last", rows, slots, False)
        self._append(rows, next_observation, next_mask, start=False, previous_action=action[rows])

    def _append(
        self,
        rows: NDArray[np.intp],
        observation: Any,
        mask: NDArray[np.bool_] | None,
        *,
        start: bool,
        previous_action: Any,
    ) -> None:
        slots = self._count[rows] % self.capacity
        for name, leaf in zip(self._leaves, flatten(self.observation_space, observation), strict=True):
            self._write(name, rows, slots, np.asarray(leaf)[rows])
        self._write("previous_action", rows, slots, previous_action)
        self._write("start", rows, slots, start)
        self._write("last", rows, slots, True)  # until something is done on it
        if mask is not None and not (self.masked or self.masks_observed):
            self.keep_masks()
        if self.masked:
            self._write("mask", rows, slots, True if mask is None else mask[rows])
        self._count[rows] += 1

    def keep_masks(self) -> None:
        """Makes room for masks of legal actions; all actions were legal so far. Done by the first mask that is given.

        Raises:
            MemoryError: it does not fit into the free memory.
        """
        column: Columns = {"mask": ((self.num_envs, self.capacity, self.n_choices), np.dtype(np.bool_))}
        refuse_what_cannot_fit(column, self.num_envs * self.capacity, self.window.device)
        ones = np.ones(*column["mask"])
        self.register_buffer("mask", torch.from_numpy(ones).to(self.window.device), persistent=False)
        self.masked = True
        self.nbytes += nbytes(column)
        if self._arrays:
            self._arrays["mask"] = self.mask.numpy()

    def keep_state(self, state: Any) -> None:
        """Keeps the state `(n, ...)` in which the actor reads the newest frames, where sequences start at them."""
        rows = np.flatnonzero((self._count - 1) % self.period == 0)
        if not (self.keep_states and len(rows)):
            return
        slots = (self._count[rows] - 1) // self.period % self.starts
        parts: list[Tensor] = []
        _numbered(state, parts)
        for name, part in zip(self._states, parts, strict=True):
            values = part[torch.as_tensor(rows, device=part.device)]
            self._write(name, rows, slots, values.numpy() if self._arrays else values)

    def _write(self, name: str, rows: NDArray[np.intp], slots: NDArray[np.int64], values: Any) -> None:
        if self._arrays:
            self._arrays[name][rows, slots] = values
        else:
            column: Tensor = getattr(self, name)
            column[rows, slots] = torch.as_tensor(values, device=column.device).to(column.dtype)

    def flush(self) -> None:
        """Makes what was written visible to `draw`: call it after a series of `begin` and `add`."""
        self.window.copy_(torch.from_numpy(self._count))

    # Reading: tensor work of fixed shapes ------------------------------------------------------------------------

    def draw(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Environments `(B,)` and numbers of the first frames `(B,)` of sequences, all equally likely."""
        oldest = (self.window - self.capacity).clamp(min=0)
        first = torch.div(oldest + self.period - 1, self.period, rounding_mode="floor")  # (num_envs,)
        last = torch.div(self.window - self.sequence_length - 1, self.period, rounding_mode="floor")
        counts = (last - first + 1).clamp(min=0)
        sums = counts.cumsum(0)
        uniform = torch.rand(batch_size, dtype=torch.float64, device=sums.device)
        ticket = (uniform * sums[-1]).long()
        row = torch.searchsorted(sums, ticket, right=True)
        return row, (first[row] + ticket - (sums[row] - counts[row])) * self.period

    def gather(self, row: Tensor, number: Tensor) -> Sequences:
        """The sequences whose first frames are `number (B,)` of the environments `row (B,)`."""
        frames = number[:, None] + torch.arange(self.sequence_length + 1, device=row.device)  # (B, T + 1)
        index = row[:, None] * self.capacity + frames % self.capacity
        column = {name: self._flat(name)[index] for name in [*self._leaves, "previous_action", "start"]}
        steps = {name: self._flat(name)[index[:, :-1]] for name in ("action", "reward", "terminated", "last")}
        start = torch.div(number, self.period, rounding_mode="floor")
        kept = row * self.kept_states + start % self.kept_states
        states = [self._flat(name)[kept] for name in self._states]
        observation = unflatten(self.observation_space, [column[name] for name in self._leaves])
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
            state=_with_leaves(self._state_tree, states),
            mask=mask,
        )

    def _flat(self, name: str) -> Tensor:
        column: Tensor = getattr(self, name)
        return column.flatten(0, 1)

    # State -------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """The filled part of the columns, and how far they are filled."""
        self.flush()
        filled = int(min(self._count.max(), self.capacity))
        names = ["action", "previous_action", "reward", "terminated", "last", "start"]
        columns = {name: getattr(self, name)[:, :filled] for name in [*names, *["mask"] * self.masked]}
        columns |= {name: getattr(self, name)[:, : -(-filled // self.period)] for name in self._states}
        rings = {name: Ring(getattr(self, name), self._count.tolist()) for name in self._leaves}
        return {"layout": self._layout, "columns": columns, "rings": rings, "count": self._count.copy()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave.

        Raises:
            ValueError: it is the state of a buffer of another size, whose rings are laid out otherwise.
        """
        if state["layout"] != self._layout:
            raise ValueError(f"the state is of a sequence buffer of {state['layout']}, this one has {self._layout}")
        if "mask" in state["columns"] and not self.masked:
            self.keep_masks()
        for name, column in state["columns"].items():
            getattr(self, name)[:, : column.shape[1]] = column.to(self.window.device)
        for name, ring in state["rings"].items():
            ring.copy_to(getattr(self, name))
        self._count = np.array(state["count"])
        self.flush()

    @property
    def _layout(self) -> dict[str, int]:
        return {"num_envs": self.num_envs, "frames": self.capacity, "period": self.period}


def _numbered(tree: Any, leaves: list[Tensor]) -> Any:
    """The structure of a tree of tensors, with numbers for leaves; the leaves are appended to a list."""
    if isinstance(tree, dict):
        return {key: _numbered(part, leaves) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(_numbered(part, leaves) for part in tree)
    leaves.append(tree.detach())
    return len(leaves) - 1


def _with_leaves(structure: Any, leaves: list[Tensor]) -> Any:
    if isinstance(structure, dict):
        return {key: _with_leaves(part, leaves) for key, part in structure.items()}
    return (
        tuple(_with_leaves(part, leaves) for part in structure) if isinstance(structure, tuple) else leaves[structure]
    )
