"""Replay memory: each frame stored once, exact at the end of episodes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.backbones.files import checksum
from agentlib.core.spaces import (
    action_dtype,
    choices,
    flatten,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    observed_mask,
    unflatten,
)
from agentlib.experience.columns import per_step
from agentlib.experience.memory import Columns, ReplayMemory, nbytes, uniform_positions
from agentlib.experience.priorities import Priorities
from agentlib.experience.ring import Ring
from agentlib.experience.transition import Episode, Transition

SMALL_OBSERVATION = 1024
"""Up to this many bytes per observation, memory is laid out for the worst case (every episode one step long)."""
SPARE_FRAMES = 1 / 128
"""Share of frames beyond `buffer_size` for larger observations: what the starts of episodes need."""


class ReplayBuffer(ReplayMemory):
    """The last `buffer_size` transitions of n environments, in preallocated columns.

    Each environment has a ring of frames and a ring of transitions. An episode writes its first observation, then one
    frame per step, the final one included; a transition knows the number of its frame, and its next observation is the
    frame after. So no frame is stored twice, and nothing is ever read across the end of an episode. With
    `frame_stack=k` the observations are stacks of k frames: an episode writes its first stack whole and then only
    the newest frame of each, and stacks are put together again by index.

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
    top: Tensor
    _COUNTERS = ("oldest", "count", "frames")

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
        columns_for = partial(
            replay_columns, observation_space, action_space, num_envs=num_envs, frame_stack=frame_stack
        )
        super().__init__(observation_space, action_space, buffer_size, columns_for, device)
        self.frame_stack, self.capacity = frame_stack, int(self.reward.shape[1])
        self.layout = {
            "num_envs": num_envs,
            "transitions": num_envs * self.capacity,
            "frames": num_envs * self.frame_capacity,
            "frame_stack": frame_stack,
        }
        # Running numbers: of each environment's transitions [oldest, count) are there. Python's ints for writing, which
        # are quicker one by one; `flush` copies them to the device for `draw`.
        self._oldest, self._count = [0] * num_envs, [0] * num_envs
        self.register_buffer("window", torch.zeros(2, num_envs, dtype=torch.int64, device=device), persistent=False)
        self._window = self.window.numpy() if self.window.is_cpu else None
        self._stacks: list[NDArray[Any]] = []  # the last observation, to check that stacks slide
        self.priorities = Priorities(num_envs * self.capacity).to(device) if prioritized else None
        self.register_buffer("top", torch.ones((), dtype=torch.float32, device=device))  # the largest priority so far
        self.is_saved = True
        """Whether a state holds the transitions; otherwise they are data that come from elsewhere."""
        self._changed: dict[int, bool] = {}  # entries written (True) or dropped (False) since the last `flush`

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

    def moved(self) -> None:
        super().moved()
        self._window = self.window.numpy() if self.window.is_cpu else None

    # Writing -----------------------------------------------------------------------------------------------------

    def begin(
        self, observation: Any, where: NDArray[np.bool_] | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        """Starts an episode with its first observation, batched, in the environments `where` (all by default).

        `mask (n, A)` says which actions are legal there; without it, all are.
        """
        leaves = self._leaves(observation)
        for row in range(self.num_envs) if where is None else np.flatnonzero(where).tolist():
            columns, frame = self._rows[row], self._frames[row]
            if self._count[row] > 0:
                # An episode that was left in the middle ends here, so that no n-step return runs into this one.
                columns["done"][(self._count[row] - 1) % self.capacity] = True
            for name, leaf in zip(self._names, leaves, strict=True):
                for offset, part in enumerate(leaf[row] if self.frame_stack > 1 else leaf[row : row + 1]):
                    columns[name][(frame + offset) % self.frame_capacity] = part
            self._frames[row] = frame + self.frame_stack
            if mask is not None or self.masked:
                self._write_mask(row, None if mask is None else mask[row])
            if self.frame_stack > 1:
                self._stacks = self._stacks or [np.stack([leaf[row]] * self.num_envs) for leaf in leaves]
                for stack, leaf in zip(self._stacks, leaves, strict=True):
                    stack[row] = leaf[row]

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
        for row in range(self.num_envs) if valid is None else np.flatnonzero(valid).tolist():
            if self.frame_stack > 1:
                self._slide(row, leaves)
            number, frame, columns = self._count[row], self._frames[row], self._rows[row]
            slot, frame_slot = number % self.capacity, frame % self.frame_capacity
            columns["position"][slot] = frame - 1
            columns["action"][slot] = action[row]
            columns["reward"][slot] = reward[row]
            if terminated[row]:
                columns["terminated"][slot] = columns["done"][slot] = True
            else:
                columns["terminated"][slot], columns["done"][slot] = False, truncated[row]
            for name, leaf in zip(self._names, leaves, strict=True):
                columns[name][frame_slot] = leaf[row] if self.frame_stack == 1 else leaf[row, -1]
            self._count[row], self._frames[row] = number + 1, frame + 1
            if next_mask is not None or self.masked:
                self._write_mask(row, None if next_mask is None else next_mask[row])
            if self.priorities is not None:
                self._changed[row * self.capacity + slot] = True

    def _slide(self, row: int, leaves: list[NDArray[Any]]) -> None:
        """Checks a stack of frames against the last one, before anything of it is written."""
        for leaf, stack in zip(leaves, self._stacks, strict=True):
            if not np.array_equal(leaf[row, :-1], stack[row, 1:]):
                raise ValueError(
                    f"frame_stack={self.frame_stack}, but an observation is not the last one moved by one frame"
                )
        for leaf, stack in zip(leaves, self._stacks, strict=True):
            stack[row] = leaf[row]

    def extend(self, episodes: Iterable[Episode]) -> None:
        """Fills the buffer from recorded episodes, before an environment writes to it."""

        def batches(values: Any) -> NDArray[Any]:
            """`(T, n, ...)`: the values of each step, as a batch in which all environments have the same."""
            array = np.asarray(values)
            return np.broadcast_to(array[:, None], (len(array), self.num_envs, *array.shape[1:]))

        for episode in episodes:
            where = np.arange(self.num_envs) == self._count.index(min(self._count))
            leaves = [batches(leaf) for leaf in flatten(self.observation_space, episode.observations)]
            observed = [unflatten(self.observation_space, frame) for frame in zip(*leaves, strict=True)]
            steps = len(episode.rewards)
            given = episode.action_masks
            masks = [None] * (steps + 1) if given is None else batches(np.asarray(given) != 0)
            last = np.arange(steps) == steps - 1
            ends = batches(last & episode.terminated), batches(last & (not episode.terminated))
            rewards = batches(per_step("rewards", episode.rewards, steps, np.float64))
            made = zip(batches(episode.actions), rewards, *ends, observed[1:], masks[1:], strict=True)
            self.begin(observed[0], where, masks[0])
            for action, reward, terminated, truncated, after, mask in made:
                self.add(action, reward, terminated, truncated, after, where, mask)
        self.flush()

    def flush(self) -> None:
        """Makes new transitions visible to `draw`: call it after a series of `begin` and `add`."""
        for row, count in enumerate(self._count):
            oldest = max(self._oldest[row], count - self.capacity)
            first = self._frames[row] - self.frame_capacity + self.frame_stack - 1  # the first whole stack
            while first > 0 and oldest < count and self._rows[row]["position"][oldest % self.capacity] < first:
                if self.priorities is not None:
                    self._changed[row * self.capacity + oldest % self.capacity] = False
                oldest += 1
            self._oldest[row] = oldest
            if self._window is not None:
                self._window[0, row], self._window[1, row] = oldest, count
        if self._window is None:
            self.window.copy_(torch.tensor((self._oldest, self._count), device="cpu"))
        if self.priorities is not None and self._changed:
            index = torch.tensor(list(self._changed), device=self.top.device)
            written = torch.tensor(list(self._changed.values()), device=self.top.device)
            # In parts: each entry that is set takes its node for a moment.
            for part, flag in zip(index.split(1 << 14), written.split(1 << 14), strict=True):
                self.priorities.set(part, self.top * flag)
            self._changed.clear()

    # Reading: tensor work of fixed shapes ------------------------------------------------------------------------

    def draw(self, batch_size: int, beta: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
        """Indices of transitions `(B,)`, and their importance weights `(B,)` float32.

        Uniform, or in proportion to the priorities, with weights (size * probability)^-beta over their largest
        (Schaul et al. 2016, section 3.4).
        """
        sizes = self.window[1] - self.window[0]  # (num_envs,)
        if self.priorities is not None:
            index, probability = self.priorities.draw(batch_size)
            weight = (probability * sizes.sum()) ** -beta
            return index, (weight / weight.max()).float()
        row, position = uniform_positions(sizes, batch_size)
        slot = (self.window[0][row] + position) % self.capacity
        return row * self.capacity + slot, torch.ones(batch_size, dtype=torch.float32, device=sizes.device)

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

    def _counts(self, name: str) -> list[int]:
        return self._frames if name == "mask" else self._count

    def get_extra_state(self) -> dict[str, Any]:
        """The filled part of the columns, how far they are filled, and the last stacks."""
        if not self.is_saved:
            return {}
        return super().get_extra_state() | {"stacks": [torch.from_numpy(stack) for stack in self._stacks]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; raises what `ReplayMemory` raises."""
        if self.is_saved:
            super().set_extra_state(state)
            self._stacks = [stack.numpy().copy() for stack in state["stacks"]]

    def fingerprint(self) -> str:
        """A digest of all columns."""
        return checksum("", {name: getattr(self, name) for name in (*self._names, *self._others)})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Before loading, makes the priorities of a smaller buffer those of this one."""
        state, name = state_dict.get(f"{prefix}_extra_state"), f"{prefix}priorities."
        if self.priorities is not None and state is not None and f"{name}level_0" in state_dict:
            before = state["layout"].get("transitions", 0)
            if before < self.num_envs * self.capacity:
                leaves = state_dict[f"{name}level_0"].flatten()[:before].view(self.num_envs, -1)
                entries, grown = leaves.new_zeros(self.num_envs, self.capacity), Priorities(self.layout["transitions"])
                Ring(leaves, list(state["count"])).copy_to(entries)
                for index in torch.arange(entries.numel()).split(1 << 14):
                    grown.set(index, entries.flatten()[index])
                for key in [key for key in state_dict if key.startswith(name)]:
                    del state_dict[key]
                state_dict |= {f"{name}{key}": value for key, value in grown.state_dict().items()}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def replay_columns(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    buffer_size: int,
    num_envs: int,
    frame_stack: int,
    masked: bool = False,
) -> Columns:
    """Shape and dtype of each column, (num_envs, slots, ...); `masked` adds one for masks of legal actions."""
    leaves = leaf_spaces(observation_space)
    if frame_stack > 1 and any(leaf_shape(leaf)[:1] != (frame_stack,) for leaf in leaves):
        raise ValueError(f"frame_stack={frame_stack} does not fit {observation_space}: it must be the first axis")
    slots = max(buffer_size // num_envs, 1)
    observation_bytes = sum(int(np.prod(leaf_shape(leaf))) * leaf_dtype(leaf).itemsize for leaf in leaves)
    spare = slots * frame_stack if observation_bytes <= SMALL_OBSERVATION else int(slots * SPARE_FRAMES)
    transitions, frames = (num_envs, slots), (num_envs, slots + spare + frame_stack)
    (action,) = leaf_spaces(action_space)
    columns: Columns = {
        "position": (transitions, np.dtype(np.int64)),
        "action": ((*transitions, *leaf_shape(action)), action_dtype(action)),
        "reward": (transitions, np.dtype(np.float32)),
        "terminated": (transitions, np.dtype(np.bool_)),
        "done": (transitions, np.dtype(np.bool_)),
    }
    for i, leaf in enumerate(leaves):
        columns[f"frame_{i}"] = ((*frames, *leaf_shape(leaf)[1 if frame_stack > 1 else 0 :]), leaf_dtype(leaf))
    if masked:
        columns["mask"] = ((*frames, sum(choices(action_space))), np.dtype(np.bool_))
    return columns
