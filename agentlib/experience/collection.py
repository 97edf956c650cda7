"""Stepping environments with an exploring actor, and keeping the transitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.schedules import Clock
from agentlib.core.spaces import action_to_space, flatten, unflatten
from agentlib.envs.vector import Environments, Stepped
from agentlib.experience.replay_buffer import ReplayBuffer

Actor = Callable[..., NDArray[Any]]
"""From batched observations (numpy) to batched actions, as indices from 0 where the space is Discrete; where the
environment gives masks of legal actions, these are a second argument, `(n, A)`."""
Exploration = Callable[..., NDArray[Any]]
"""(actor, batched observations, clock) -> batched actions; masks of legal actions are a fourth argument."""

WINDOW = 100
"""Episodes over which returns and lengths are averaged, as in SB3's logs."""


class Collector:
    """Steps environments into a replay buffer, and keeps the returns of the last episodes.

    A plain object and no module: it runs at every environment step.

    Args:
        envs: the environments to step.
        buffer: where transitions go.
        actor: chooses actions.
        exploration: how actions are varied.
        observe: takes each batch of new observations (trees of tensors), for running statistics.
    """

    def __init__(
        self,
        envs: Environments,
        buffer: ReplayBuffer,
        actor: Actor,
        exploration: Exploration,
        observe: Callable[[Any], None] | None = None,
    ) -> None:
        self.envs, self.buffer, self.actor, self.exploration, self.observe = envs, buffer, actor, exploration, observe
        space = envs.action_space
        # Actors give int64 counted from 0: nothing to change, at every step of most environments.
        self.as_they_come = space.dtype == np.int64 and not np.any(getattr(space, "start", 0))
        self.is_real = isinstance(space, spaces.Box)
        self.steps = 0
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self.observation: Any = None
        self._return = np.zeros(envs.num_envs)
        self._length = np.zeros(envs.num_envs, np.int64)

    def reset(self, seed: int) -> None:
        """Starts new episodes everywhere."""
        self.observation = self.envs.reset(seed=seed)
        self._return[:], self._length[:] = 0.0, 0
        self.buffer.begin(self.observation, mask=self.envs.action_mask)
        self._observe(self.observation)

    def step(self, clock: Clock) -> None:
        """One step of each environment."""
        action = self.choose(clock)
        executed = action if self.as_they_come else action_to_space(self.envs.action_space, action)
        stepped = self.envs.step(executed)
        self.keep(executed if self.is_real else action, stepped)  # beyond a bound nothing was done

    def choose(self, clock: Clock) -> NDArray[Any]:
        """The next action of each environment."""
        mask = self.envs.action_mask
        return self.exploration(self.actor, self.observation, clock, *(() if mask is None else (mask,)))

    def keep(self, action: NDArray[Any], stepped: Stepped) -> None:
        """Keeps the transitions of a step."""
        valid = None if stepped.all_valid else stepped.valid
        ends = stepped.terminated, stepped.truncated
        self.buffer.add(action, stepped.reward, *ends, stepped.next_observation, valid, stepped.next_mask)
        self.observation = stepped.observation
        if self.observe is not None:
            self._observe(stepped.next_observation)
        self.steps += self.envs.num_envs if valid is None else int(valid.sum())
        self._return += stepped.reward
        self._length += 1 if valid is None else valid
        if stepped.any_ended:
            self._end_episodes(np.flatnonzero(stepped.terminated | stepped.truncated))
        if stepped.any_begun:
            self.buffer.begin(self.observation, stepped.begun, self.envs.action_mask)

    def _end_episodes(self, rows: NDArray[np.intp]) -> None:
        for row in rows:
            self.returns.append(float(self._return[row]))
            self.lengths.append(int(self._length[row]))
            self.episodes += 1
            self._return[row], self._length[row] = 0.0, 0

    def _observe(self, observation: Any) -> None:
        if self.observe is not None:
            space = self.buffer.observation_space
            leaves = [torch.as_tensor(np.asarray(leaf)) for leaf in flatten(space, observation)]
            self.observe(unflatten(space, leaves))

    def measures(self) -> dict[str, float]:
        """The number of episodes, and the mean return and length of the last ones, under SB3's names."""
        measures = {"time/episodes": float(self.episodes)}
        if self.returns:
            measures["rollout/ep_rew_mean"] = float(np.mean(self.returns))
            measures["rollout/ep_len_mean"] = float(np.mean(self.lengths))
        return measures

    def state(self) -> dict[str, Any]:
        """Counters, the episodes under way, and the state of exploration and actor."""
        return {
            "envs": self.envs.state() if self.observation is not None else {"steps": self.envs.steps},
            "return": self._return.copy(),
            "length": self._length.copy(),
            "steps": self.steps,
            "episodes": self.episodes,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "exploration": _state_of(self.exploration),
            "actor": _state_of(self.actor),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave; environments that cannot be brought back start new episodes at the next step."""
        self.observation = self.envs.load_state(state["envs"])
        self._return, self._length = np.array(state["return"]), np.array(state["length"])
        self.steps, self.episodes = state["steps"], state["episodes"]
        self.returns = deque(state["returns"], WINDOW)
        self.lengths = deque(state["lengths"], WINDOW)
        if hasattr(self.exploration, "load_state"):
            self.exploration.load_state(state["exploration"])
        if hasattr(self.actor, "load_state"):
            self.actor.load_state(state["actor"])


def _state_of(part: Any) -> dict[str, Any]:
    return dict(part.state()) if hasattr(part, "load_state") else {}
