"""Off-policy experience as a source: environments are stepped, and batches drawn from what they gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlib.backbones.schedules import Clock, Schedule, at
from agentlib.data.replay_buffer import ReplayBuffer, Transition
from agentlib.data.source import Source
from agentlib.data.spaces import flatten, unflatten
from agentlib.envs.vector import Environments

Actor = Callable[[Any], NDArray[Any]]
"""From batched observations (numpy) to batched actions, as indices from 0 where the space is Discrete."""
Exploration = Callable[[Actor, Any, Clock], NDArray[Any]]
"""(actor, batched observations, clock) -> batched actions."""


class Replay(Source):
    """Steps environments with an exploring actor, and samples transitions from a buffer.

    `train_freq`, `learning_starts` and `total_steps` count environment steps over all environments; the order of
    things is SB3's: `train_freq` steps, then `gradient_steps` updates.

    Args:
        envs: what `agentlib.envs.Environments` takes.
        actor: chooses actions; a callable, not a submodule: the learner owns the policy.
        buffer: where transitions are kept.
        exploration: how actions are varied.
        batch_size: transitions per batch.
        learning_starts: steps with random actions before the first update.
        train_freq: steps between updates.
        gradient_steps: updates after those steps; -1 for as many as there were steps.
        n_steps: steps of the returns.
        gamma: discount per step.
        priority_exponent: alpha of prioritized sampling, for a buffer that keeps priorities.
        importance_exponent: beta of prioritized sampling.
        total_steps: the length of the run, for schedules.
        observe: takes each batch of new observations (trees of tensors), for running statistics.
        seed: of environments, random actions and sampling.
    """

    def __init__(
        self,
        envs: Any,
        actor: Actor,
        buffer: ReplayBuffer,
        exploration: Exploration,
        *,
        batch_size: int = 32,
        learning_starts: int = 100,
        train_freq: int = 4,
        gradient_steps: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        priority_exponent: float = 0.6,
        importance_exponent: Schedule = 0.4,
        total_steps: int = 1,
        observe: Callable[[Any], None] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.envs = envs if isinstance(envs, Environments) else Environments(envs)
        self.buffer, self.actor, self.exploration = buffer, actor, exploration
        self.batch_size, self.learning_starts = batch_size, learning_starts
        self.train_freq, self.gradient_steps = train_freq, gradient_steps
        self.n_steps, self.gamma = n_steps, gamma
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self.total_steps, self.observe = total_steps, observe
        self.steps = 0
        self.updates_due = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=100)
        self.lengths: deque[int] = deque(maxlen=100)
        self._observation: Any = None
        self._return = np.zeros(self.envs.num_envs)
        self._length = np.zeros(self.envs.num_envs, np.int64)

    @property
    def clock(self) -> Clock:
        """Where the run is; its steps are environment steps."""
        return Clock(self.updates, self.steps, self.steps / self.total_steps)

    def updates_for(self, steps: int) -> int:
        """How many updates belong to a run of `steps` environment steps."""
        collected, updates = 0, 0
        per_cycle = -(-self.train_freq // self.envs.num_envs) * self.envs.num_envs
        while collected < steps:
            collected += per_cycle
            if collected > self.learning_starts:
                updates += self.gradient_steps if self.gradient_steps >= 0 else per_cycle
        return updates

    def advance(self) -> None:
        """Steps the environments until an update is due."""
        while self.updates_due <= 0:
            start = self.steps
            while self.steps - start < self.train_freq:
                self.collect()
            self.buffer.flush()
            if self.steps > self.learning_starts:
                self.updates_due = self.gradient_steps if self.gradient_steps >= 0 else self.steps - start
        self.updates_due -= 1

    def collect(self) -> None:
        """One step of each environment into the buffer."""
        if self._observation is None:
            self._observation = self.envs.reset(seed=int(self.generator.integers(2**31)))
            self.buffer.begin(self._observation)
            self._learn_statistics(self._observation)
        action = self.exploration(self.actor, self._observation, self.clock)
        stepped = self.envs.step(action + self._action_start)
        self.buffer.add(
            action, stepped.reward, stepped.terminated, stepped.truncated, stepped.next_observation, stepped.valid
        )
        if stepped.begun.any():
            self.buffer.begin(stepped.observation, stepped.begun)
        self._observation = stepped.observation
        self._learn_statistics(stepped.next_observation)
        self.steps += int(stepped.valid.sum())
        self._return += stepped.reward
        self._length += stepped.valid
        for row in np.flatnonzero(stepped.terminated | stepped.truncated):
            self.returns.append(float(self._return[row]))
            self.lengths.append(int(self._length[row]))
            self.episodes += 1
            self._return[row], self._length[row] = 0.0, 0

    def _learn_statistics(self, observation: Any) -> None:
        if self.observe is not None:
            space = self.buffer.observation_space
            leaves = [torch.as_tensor(np.asarray(leaf)) for leaf in flatten(space, observation)]
            self.observe(unflatten(space, leaves))

    @property
    def _action_start(self) -> Any:
        return getattr(self.buffer.action_space, "start", 0)

    def sample(self) -> Transition:
        """A batch of transitions."""
        clock = self.batch_clock
        index, weight = self.buffer.draw(self.batch_size, at(self.importance_exponent, clock))
        batch = self.buffer.gather(index, self.n_steps, self.gamma)
        return batch._replace(weight=weight, clock=clock)

    def feedback(self, batch: Transition, per_sample: Tensor | None) -> None:
        """Priorities from the sizes of the TD errors `(B,)` (Schaul et al. 2016, section 3.3)."""
        if self.buffer.priorities is not None and per_sample is not None:
            self.buffer.set_priorities(batch.index, (per_sample.abs() + 1e-6) ** self.priority_exponent)

    def get_extra_state(self) -> dict[str, Any]:
        """Counters and generators; the episode that is under way is not part of it."""
        return super().get_extra_state() | {
            "steps": self.steps,
            "updates_due": self.updates_due,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "exploration": getattr(self.exploration, "state", lambda: {})(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; the environments start a new episode."""
        super().set_extra_state(state)
        self.steps, self.updates_due, self.episodes = state["steps"], state["updates_due"], state["episodes"]
        self.returns.extend(state["returns"])
        self.lengths.extend(state["lengths"])
        if hasattr(self.exploration, "load_state"):
            self.exploration.load_state(state["exploration"])
        self._observation = None
        self._return[:], self._length[:] = 0.0, 0
