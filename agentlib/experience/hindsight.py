"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv:1707.01495): what was reached counts as what was sought.

Most transitions of a batch get another goal, one that was reached in the same episode, and the reward that the
environment's `compute_reward` gives for it. Names are Stable-Baselines3's.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.spaces import leaf_dtype, leaf_shape
from agentlib.experience.asking import single_environments
from agentlib.experience.replay import Replay
from agentlib.experience.transition import Transition

Strategy = Literal["future", "final", "episode"]
PARTS = ("achieved_goal", "desired_goal", "observation")
"""Of the observations of goal environments, as Gymnasium-Robotics has them."""


class HindsightReplay(Replay):
    """`Replay` of an environment with goals.

    Args are those of `Replay`, and

        n_sampled_goal: transitions with another goal for each one with its own.
        goal_selection_strategy: the other goal is one that was reached later in the episode ("future"), at its end
            ("final"), or at any time in it ("episode").

    Raises:
        ValueError: the observations are not a Dict of an observation, an achieved and a desired goal; the environment
            has no `compute_reward`; or with returns over several steps, or priorities.
    """

    chosen: Tensor
    goal: Tensor
    rewards: Tensor

    def __init__(
        self,
        *parts: Any,
        n_sampled_goal: int = 4,
        goal_selection_strategy: Strategy = "future",
        **arguments: Any,
    ) -> None:
        super().__init__(*parts, **arguments)
        space = self.collector.envs.observation_space
        if not isinstance(space, spaces.Dict) or not set(PARTS) <= set(space.spaces):
            raise ValueError(
                f"hindsight needs observations with the parts {', '.join(PARTS)}; this environment has {space}"
            )
        self.compute_reward = getattr(single_environments(self.collector.envs)[0].unwrapped, "compute_reward", None)
        if self.compute_reward is None:
            raise ValueError(
                "hindsight asks the environment for rewards of other goals: give it a method "
                "compute_reward(achieved_goal, desired_goal, info), which takes batches"
            )
        if self.n_steps != 1 or self.buffer.priorities is not None:
            raise ValueError("hindsight changes goals and rewards step by step: leave out n_steps and prioritized")
        if goal_selection_strategy not in get_args(Strategy):
            raise ValueError(
                f"goal_selection_strategy is {', '.join(get_args(Strategy))}, not {goal_selection_strategy!r}"
            )
        self.strategy, self.relabelled = (
            goal_selection_strategy,
            int(self.batch_size * n_sampled_goal / (n_sampled_goal + 1)),
        )
        self._ends: list[list[int]] = [[] for _ in range(self.buffer.num_envs)]
        """Running numbers of the last transitions of episodes, of each environment."""
        self._seen = [0] * self.buffer.num_envs
        goal: Any = space["desired_goal"]
        dtype = torch.from_numpy(np.zeros(0, leaf_dtype(goal))).dtype
        self.register_buffer("chosen", torch.zeros(self.batch_size, dtype=torch.int64), persistent=False)
        self.register_buffer("goal", torch.zeros((self.batch_size, *leaf_shape(goal)), dtype=dtype), persistent=False)
        self.register_buffer("rewards", torch.zeros(self.batch_size, dtype=torch.float32), persistent=False)

    def advance(self) -> None:
        """Steps the environments until an update is due; chooses its transitions and their goals."""
        super().advance()
        self._note_ends()
        buffer, generator = self.buffer, self.generator
        oldest, count = np.array(buffer._oldest), np.array(buffer._count)
        sums = (count - oldest).cumsum()
        ticket = generator.integers(sums[-1], size=self.batch_size)
        row = np.searchsorted(sums, ticket, side="right")
        number = count[row] - sums[row] + ticket
        other = np.arange(self.batch_size) < self.relabelled
        goal = np.zeros(tuple(self.goal.shape), leaf_dtype(buffer.observation_space["desired_goal"]))
        rewards = np.zeros(self.batch_size, np.float32)
        for env in np.unique(row):
            here = row == env
            mine = number[here]
            found, given = self._frames(env, mine, "desired_goal", 0), self._column(env, "reward", mine)
            if (changed := other[here]).any():
                found, given = np.array(found), np.array(given)
                found[changed] = self._frames(env, self._others(env, mine[changed]), "achieved_goal", 1)
                reached = self._frames(env, mine[changed], "achieved_goal", 1)
                assert self.compute_reward is not None
                given[changed] = self.compute_reward(reached, found[changed], [{}] * int(changed.sum()))
            goal[here], rewards[here] = found, given
        self.chosen.copy_(torch.from_numpy(row * buffer.capacity + number % buffer.capacity))
        self.goal.copy_(torch.from_numpy(goal))
        self.rewards.copy_(torch.from_numpy(rewards))

    def _note_ends(self) -> None:
        """Looks for episodes that have ended since the last time, and forgets those that are overwritten."""
        for env, (oldest, count) in enumerate(zip(self.buffer._oldest, self.buffer._count, strict=True)):
            numbers = np.arange(max(self._seen[env], oldest), count)
            done = self._column(env, "done", numbers)
            ends = self._ends[env]
            ends += numbers[done].tolist()
            self._ends[env] = ends[int(np.searchsorted(ends, oldest)) :]
            self._seen[env] = count

    def _others(self, env: int, number: NDArray[Any]) -> NDArray[Any]:
        """For each transition another one of its episode, whose goal it gets."""
        oldest, count = self.buffer._oldest[env], self.buffer._count[env]
        ends = np.array([oldest - 1, *self._ends[env], count - 1])
        episode = np.searchsorted(ends[1:], number)
        first, last = ends[episode] + 1, ends[episode + 1]
        if self.strategy == "final":
            return last
        return self.generator.integers(number if self.strategy == "future" else first, last + 1)

    def _column(self, env: int, name: str, number: NDArray[Any]) -> NDArray[Any]:
        found = self.buffer._rows[env][name][number % self.buffer.capacity]
        return found.cpu().numpy() if isinstance(found, Tensor) else found

    def _frames(self, env: int, number: NDArray[Any], part: str, after: int) -> NDArray[Any]:
        """A part of the observations before (0) or after (1) transitions."""
        name = self.buffer._names[list(self.buffer.observation_space.spaces).index(part)]
        slots = (self._column(env, "position", number) + after) % self.buffer.frame_capacity
        found = self.buffer._rows[env][name][slots]
        return found.cpu().numpy() if isinstance(found, Tensor) else found

    def sample(self) -> Transition:
        """The batch that `advance` has chosen."""
        batch: Transition = self.buffer.gather(self.chosen, 1, self.gamma)
        return batch._replace(
            observation={**batch.observation, "desired_goal": self.goal},
            next_observation={**batch.next_observation, "desired_goal": self.goal},
            reward=self.rewards,
            clock=self.batch_clock,
        )

    def get_extra_state(self) -> dict[str, Any]:
        """That of `Replay`, and where episodes end."""
        return super().get_extra_state() | {"ends": self._ends, "seen": self._seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        super().set_extra_state(state)
        self._ends, self._seen = [list(ends) for ends in state["ends"]], list(state["seen"])
