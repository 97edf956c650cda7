"""Replay memory: each frame stored once, exact at the end of episodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.spaces import choices, flatten, observed_mask, observes_mask, unflatten
from agentlib.experience.memory import nbytes, refuse_what_cannot_fit, replay_columns, writable
from agentlib.experience.priorities import Priorities
from agentlib.experience.ring import Ring
from agentlib.experience.transition import Episode, Transition


class ReplayBuffer(nn.Module):
    """The last `buffer_size` transitions of n environments, in preallocated columns.

    Each environment has a ring of frames and a ring of transitions. An episode writes its first observation, then one
    frame per step, the final one included; a transition knows the number of its frame, and its next observation is the
    frame after. So no frame is stored twice, and nothing is ever read across the end of an episode. With
    `frame_stack=k` the observations are stacks of k frames: an episode writes its first stack whole and then only
    the newest frame of each, and stacks are put together again by index. Masks of legal actions (see
    `agentlib.envs.masks`) lie beside the frames, from the first one that is given; those that are a part of the
    observation are read from there.

    Small observations get room for the worst case. For large ones (images) there is room for `buffer_size` frames and
    a little more: if episodes are shorter than about 130 steps per stacked frame, fewer than `buffer_size`
    transitions are kept, never wrong ones.

    Args:
        observation_space: of one environment: Box, Discrete, MultiDiscrete, MultiBinary, nested in Dict and Tuple.
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        buffer_size: transitions, over all environments.
        num_envs: environments that write side by side.
        frame_stack: leading axis of the observations that is a sliding window over time; 1 for none.
        prioritized: keep a priority for each transition.
        device: where the columns live.

    Raises:
        MemoryError: the columns would not fit into the free memory; the message names a size that would.
        ValueError: `frame_stack` does not fit the observations.
    """

    position: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    done: Tensor
    window: Tensor
    top: Tensor
    mask: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        buffer_size: int,
        *,
        num_envs: int = 1,
        frame_stack: int = 1,
        prioritized: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.buffer_size, self.num_envs, self.frame_stack = buffer_size, num_envs, frame_stack
        self.n_choices, self.masks_observed = sum(choices(action_space)), observes_mask(observation_space, action_space)
        self.masked = False
        columns = replay_columns(observation_space, action_space, buffer_size, num_envs, frame_stack)
        self.nbytes = nbytes(columns)
        refuse_what_cannot_fit(columns, buffer_size, torch.device(device))
        self.capacity, self.frame_capacity = columns["reward"][0][1], columns["frame_0"][0][1]
        for name, (shape, dtype) in columns.items():
            # Not persistent: `get_extra_state` saves the part that is filled. numpy's zeros take memory when written.
            self.register_buffer(name, torch.from_numpy(np.zeros(shape, dtype)).to(device), persistent=False)
        # Running numbers: of each environment's transitions [oldest, count) are there. Python's ints for writing, which
        # are quicker one by one; `flush` copies them to the device for `draw`.
        self._oldest, self._count, self._frames = [0] * num_envs, [0] * num_envs, [0] * num_envs
        self.register_buffer("window", torch.zeros(2, num_envs, dtype=torch.int64, device=device), persistent=False)
        self._stacks: list[NDArray[Any]] = []  # the last observation, to check that stacks slide
        self.priorities = Priorities(num_envs * self.capacity).to(device) if prioritized else None
        self.register_buffer("top", torch.ones((), device=device))  # the largest priority so far
        self._changed: dict[int, bool] = {}  # entries written (True) or dropped (False) since the last `flush`
        self._names = [name for name in columns if name.startswith("frame_")]
        self._window = self.window.numpy() if self.window.is_cpu else None
        self._rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]  # of each environment, by column
        for name in columns:
            self._reach(name)

    @staticmethod
    def forecast(
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        buffer_size: int,
        *,
        num_envs: int = 1,
        frame_stack: int = 1,
        masked: bool = False,
    ) -> int:
        """Bytes that such a buffer takes once it is full; `masked`: the environment gives action masks in its infos."""
        return nbytes(replay_columns(observation_space, action_space, buffer_size, num_envs, frame_stack, masked))

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return sum(self._count) - sum(self._oldest)

    def _reach(self, name: str) -> None:
        """Makes a column writable entry by entry."""
        for row, part in zip(self._rows, getattr(self, name), strict=True):
            row[name] = writable(part)

    # Writing -----------------------------------------------------------------------------------------------------

    def begin(
        self, observation: Any, where: NDArray[np.bool_] | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Starts an episode with its first observation, batched, in the environments `where` (all by default).

        `mask (n, A)` says which actions are legal there; without it, all are.
        """
        leaves = self._leaves(observation)
        for row in range(self.num_envs) if where is None else np.flatnonzero(where):
            self._begin(int(row), [leaf[row] for leaf in leaves], None if mask is None else mask[row])

    def _begin(self, row: int, leaves: list[Any], mask: NDArray[np.bool_] | None = None) -> None:
        if self._count[row] > 0:
            # An episode that was left in the middle ends here, so that no n-step return runs into this one.
            self._rows[row]["done"][(self._count[row] - 1) % self.capacity] = True
        for offset in range(self.frame_stack):
            slot = (self._frames[row] + offset) % self.frame_capacity
            for name, leaf in zip(self._names, leaves, strict=True):
                self._rows[row][name][slot] = leaf if self.frame_stack == 1 else leaf[offset]
        self._frames[row] += self.frame_stack
        self._write_mask(row, mask)
        if self.frame_stack > 1:
            self._stacks = self._stacks or [np.stack([leaf] * self.num_envs) for leaf in leaves]
            for stack, leaf in zip(self._stacks, leaves, strict=True):
                stack[row] = leaf

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
        """Stores one transition of each environment; all arguments are batched.

        `next_observation` is the observation after the action, the final one included, and `next_mask (n, A)` says
        which actions are legal there. Rows that are not `valid` are no transitions and are left out.

        Raises:
            ValueError: with `frame_stack`, an observation that is not the last one moved by one frame.
        """
        leaves = self._leaves(next_observation)
        for row in range(self.num_envs) if valid is None else np.flatnonzero(valid):
            values, mask = [leaf[row] for leaf in leaves], None if next_mask is None else next_mask[row]
            self._add(int(row), action[row], reward[row], terminated[row], truncated[row], values, mask)

    def _add(
        self,
        row: int,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        leaves: list[Any],
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        number, frame = self._count[row], self._frames[row]
        slot, frame_slot = number % self.capacity, frame % self.frame_capacity
        if self.frame_stack > 1:  # checked first: an observation that is refused leaves no trace
            for leaf, stack in zip(leaves, self._stacks, strict=True):
                if not np.array_equal(leaf[:-1], stack[row, 1:]):
                    raise ValueError(
                        f"frame_stack={self.frame_stack}, but an observation is not the last one moved by one frame"
                    )
            for leaf, stack in zip(leaves, self._stacks, strict=True):
                stack[row] = leaf
        columns = self._rows[row]
        columns["position"][slot] = frame - 1
        columns["action"][slot] = action
        columns["reward"][slot] = reward
        columns["terminated"][slot] = terminated
        columns["done"][slot] = terminated or truncated
        for name, leaf in zip(self._names, leaves, strict=True):
            columns[name][frame_slot] = leaf if self.frame_stack == 1 else leaf[-1]
        self._count[row] = number + 1
        self._frames[row] = frame + 1
        if mask is not None or self.masked:
            self._write_mask(row, mask)
        if self.priorities is not None:
            self._changed[row * self.capacity + slot] = True

    def _evict(self, row: int) -> None:
        """Moves the oldest transition on, past those that the rings have overwritten."""
        count = self._count[row]
        oldest = max(self._oldest[row], count - self.capacity)
        first_frame = self._frames[row] - self.frame_capacity + self.frame_stack - 1  # the first whole stack
        if first_frame > 0:
            while oldest < count and self._rows[row]["position"][oldest % self.capacity] < first_frame:
                if self.priorities is not None:
                    self._changed[row * self.capacity + oldest % self.capacity] = False
                oldest += 1
        self._oldest[row] = oldest

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Fills the buffer from recorded episodes, before an environment writes to it."""
        for episode in episodes:
            row = self._count.index(min(self._count))
            leaves = [np.asarray(leaf) for leaf in flatten(self.observation_space, episode.observations)]
            last = len(episode.rewards) - 1
            masks = [None] * (last + 2) if episode.action_masks is None else np.asarray(episode.action_masks) != 0
            self._begin(row, [leaf[0] for leaf in leaves], masks[0])
            for t in range(last + 1):
                ends = t == last and episode.terminated, t == last and not episode.terminated
                next_leaves = [leaf[t + 1] for leaf in leaves]
                self._add(row, episode.actions[t], episode.rewards[t], *ends, next_leaves, masks[t + 1])
        self.flush()

    def flush(self) -> None:
        """Makes new transitions visible to `draw`: call it after a series of `begin` and `add`."""
        for row in range(self.num_envs):
            self._evict(row)
        if self._window is not None:
            self._window[:] = self._oldest, self._count
        else:
            self.window.copy_(torch.tensor((self._oldest, self._count)))
        if self.priorities is not None and self._changed:
            index = torch.tensor(list(self._changed), device=self.top.device)
            written = torch.tensor(list(self._changed.values()), device=self.top.device)
            # In parts: each entry that is set takes its node for a moment.
            for part, flag in zip(index.split(1 << 14), written.split(1 << 14), strict=True):
                self.priorities.set(part, self.top * flag)
            self._changed.clear()

    def keep_masks(self) -> None:
        """Makes room for masks of legal actions; all actions were legal so far. Done by the first mask that is given.

        Raises:
            MemoryError: it does not fit into the free memory.
        """
        layout = (self.buffer_size, self.num_envs, self.frame_stack)
        shape, dtype = replay_columns(self.observation_space, self.action_space, *layout, masked=True)["mask"]
        refuse_what_cannot_fit({"mask": (shape, dtype)}, self.buffer_size, self.top.device)
        self.register_buffer("mask", torch.from_numpy(np.ones(shape, dtype)).to(self.top.device), persistent=False)
        self.masked = True
        self.nbytes += nbytes({"mask": (shape, dtype)})
        self._reach("mask")

    def _write_mask(self, row: int, mask: NDArray[np.bool_] | None) -> None:
        """The mask of the newest frame."""
        if mask is not None and not (self.masked or self.masks_observed):
            self.keep_masks()
        if self.masked:
            slot = (self._frames[row] - 1) % self.frame_capacity
            self._rows[row]["mask"][slot] = True if mask is None else mask

    def _leaves(self, observation: Any) -> list[NDArray[Any]]:
        if type(observation) is np.ndarray:
            return [observation]
        return [np.asarray(leaf) for leaf in flatten(self.observation_space, observation)]

    # Reading: tensor work of fixed shapes ------------------------------------------------------------------------

    def draw(self, batch_size: int, beta: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
        """Indices of transitions `(B,)`, and their importance weights `(B,)` float32.

        Uniform, or in proportion to the priorities, with weights (size * probability)^-beta over their largest
        (Schaul et al. 2016, section 3.4).
        """
        sizes = self.window[1] - self.window[0]  # (num_envs,)
        sums = sizes.cumsum(0) if self.num_envs > 1 else sizes
        if self.priorities is not None:
            index, probability = self.priorities.draw(batch_size)
            weight = (probability * sums[-1]) ** -beta
            return index, (weight / weight.max()).float()
        uniform = torch.rand(batch_size, dtype=torch.float64, device=sums.device)
        ticket = (uniform * sums[-1]).long()
        row = torch.zeros_like(ticket)
        if self.num_envs > 1:
            row = torch.searchsorted(sums, ticket, right=True)
            ticket = ticket - (sums[row] - sizes[row])
        slot = (self.window[0][row] + ticket) % self.capacity
        return row * self.capacity + slot, torch.ones(batch_size, device=sums.device)

    def gather(self, index: Tensor, n_steps: int = 1, gamma: float = 0.99) -> Transition:
        """The transitions at `index (B,)`, with returns over up to `n_steps` steps.

        A return stops where its episode ends or the buffer does; `discount` says after how many steps.
        """
        row = torch.div(index, self.capacity, rounding_mode="floor")
        slot = index - row * self.capacity
        if n_steps == 1:
            last = index
            reward = self.reward.flatten()[index]
            discount = torch.full_like(reward, gamma)
        else:
            count = self.window[1][row]  # (B,)
            number = count - 1 - (count - 1 - slot) % self.capacity
            ahead = torch.arange(n_steps, device=index.device)  # (n,)
            window = row[:, None] * self.capacity + (number[:, None] + ahead) % self.capacity  # (B, n)
            ended = self.done.flatten()[window].long()
            inside = (number[:, None] + ahead < count[:, None]) & (ended.cumsum(1) - ended == 0)  # (B, n)
            steps = inside.sum(1)
            reward = (self.reward.flatten()[window] * gamma**ahead * inside).sum(1)
            discount = gamma ** steps.float()
            last = window.gather(1, steps[:, None] - 1)[:, 0]
        position, next_position = self.position.flatten()[index], self.position.flatten()[last] + 1
        batch = Transition(
            observation=self._observation(row, position),
            action=self.action.flatten(0, 1)[index],
            reward=reward,
            next_observation=self._observation(row, next_position),
            terminated=self.terminated.flatten()[last].float(),
            discount=discount,
            weight=torch.ones_like(reward),
            index=index,
        )
        if not (self.masked or self.masks_observed):
            return batch
        mask = self._mask(batch.observation, row, position)
        next_mask = self._mask(batch.next_observation, row, next_position) | (batch.terminated[:, None] > 0)
        return batch._replace(mask=mask, next_mask=next_mask)

    def _mask(self, observation: Any, row: Tensor, position: Tensor) -> Tensor:
        """The legal actions `(B, A)` at observations whose newest frames are at `position (B,)`."""
        if self.masks_observed:
            return observed_mask(observation, self.n_choices)  # type: ignore[no-any-return]
        return self.mask.flatten(0, 1)[row * self.frame_capacity + position % self.frame_capacity]

    def _observation(self, row: Tensor, position: Tensor) -> Any:
        if self.frame_stack > 1:
            back = torch.arange(1 - self.frame_stack, 1, device=row.device)
            position = position[:, None] + back  # (B, k)
            row = row[:, None]
        index = row * self.frame_capacity + position % self.frame_capacity
        leaves = [getattr(self, name).flatten(0, 1)[index] for name in self._names]
        return unflatten(self.observation_space, leaves)

    def set_priorities(self, index: Tensor, priority: Tensor) -> None:
        """Gives transitions `index (B,)` new priorities `(B,)`."""
        assert self.priorities is not None
        self.top.copy_(torch.maximum(self.top, priority.max()))
        self.priorities.set(index, priority)

    # State -------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """The filled part of the columns, and how far they are filled."""
        self.flush()
        filled, frames = min(max(self._count), self.capacity), min(max(self._frames), self.frame_capacity)
        names = ["position", "action", "reward", "terminated", "done"]
        columns = {name: getattr(self, name)[:, :filled] for name in names}
        columns |= {name: getattr(self, name)[:, :frames] for name in ["mask"] * self.masked}
        return {
            "layout": self._layout,
            "columns": columns,
            "rings": {name: Ring(getattr(self, name), list(self._frames)) for name in self._names},
            "oldest": list(self._oldest),
            "count": list(self._count),
            "frames": list(self._frames),
            "stacks": [torch.from_numpy(stack) for stack in self._stacks],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave.

        Raises:
            ValueError: it is the state of a buffer of another size, whose rings are laid out otherwise.
        """
        if state["layout"] != self._layout:
            raise ValueError(f"the state is of a replay buffer of {state['layout']}, this one has {self._layout}")
        if "mask" in state["columns"] and not self.masked:
            self.keep_masks()
        for name, column in state["columns"].items():
            getattr(self, name)[:, : column.shape[1]] = column.to(self.top.device)
        for name, ring in state["rings"].items():
            ring.copy_to(getattr(self, name))
        self._oldest, self._count, self._frames = (list(state[name]) for name in ("oldest", "count", "frames"))
        self._stacks = [stack.numpy().copy() for stack in state["stacks"]]
        self.flush()

    @property
    def _layout(self) -> dict[str, int]:
        return {
            "num_envs": self.num_envs,
            "transitions": self.num_envs * self.capacity,
            "frames": self.num_envs * self.frame_capacity,
            "frame_stack": self.frame_stack,
        }
