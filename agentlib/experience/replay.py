"""Off-policy experience as a source: environments are stepped, and batches sampled from what they gave."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.schedules import Clock, Schedule, at
from agentlib.core.source import Source
from agentlib.core.spaces import LEARNED_WITH_MASKS, action_to_space, flatten, unflatten
from agentlib.envs.checks import require_num_envs
from agentlib.envs.vector import Environments
from agentlib.experience.replay_buffer import ReplayBuffer
from agentlib.experience.sequence_buffer import SequenceBuffer, Sequences
from agentlib.experience.transition import Transition

Actor = Callable[..., NDArray[Any]]
"""From batched observations (numpy) to batched actions, as indices from 0 where the space is Discrete; where the
environment gives masks of legal actions, these are a second argument, `(n, A)`."""
Exploration = Callable[..., NDArray[Any]]
"""(actor, batched observations, clock) -> batched actions; masks of legal actions are a fourth argument."""

LARGE_REWARD = 1e6
"""Rewards beyond it, or below minus it, are warned of."""
TRANSFORM = "gymnasium.wrappers.TransformReward"
WINDOW = 100
"""Episodes over which returns and lengths are averaged, as in SB3's logs."""
FEW = 16
"""Environments up to whose number lists of numbers are quicker than arrays."""


def warn_of_reward(reward: float, where: str, remedy: str = TRANSFORM) -> None:
    """The warning that a reward is too large to be learned from, and how to scale it."""
    warnings.warn(
        f"the reward {reward:g} {where}: values so large are hardly learned, as each update moves them by little; "
        f"scale the rewards, such as by {remedy}",
        stacklevel=2,
    )


class Collector:
    """Steps environments into a replay buffer, and keeps the returns of the last episodes.

    A plain object and no module: it runs at every environment step. For a `SequenceBuffer` the actor is given the
    starts of episodes and the actions that were taken, and the state in which it read goes to the buffer.

    Args:
        envs: the environments to step.
        buffer: where transitions go. Where rewards are too large its `remedy`, if any, is advised; None says that
            they are scaled anyway.
        actor: chooses actions.
        exploration: how actions are varied; its `num_envs`, and the buffer's, must be that of `envs`.
        observe: takes each batch of new observations (trees of tensors), for running statistics.
    """

    def __init__(
        self,
        envs: Environments,
        buffer: ReplayBuffer | SequenceBuffer,
        actor: Any,
        exploration: Exploration,
        observe: Callable[[Any], None] | None = None,
    ) -> None:
        require_num_envs(envs.num_envs, buffer, actor, exploration)
        self.envs, self.actor, self.observe = envs, actor, observe
        self.exploration: Any = exploration
        self.begins = hasattr(exploration, "begin")  # it is told where episodes begin
        self.buffer: Any = buffer
        self.wants_feedback = getattr(buffer, "priorities", None) is not None
        space = envs.action_space
        # Actors give int64 counted from 0: nothing to change, at every step of most environments.
        self.as_they_come = space.dtype == np.int64 and not np.any(getattr(space, "start", 0))
        self.is_real = isinstance(space, spaces.Box)
        self.with_memory = isinstance(buffer, SequenceBuffer)
        self.steps, self.has_warned = 0, False
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[int] = deque(maxlen=WINDOW)
        self.observation: Any = None
        self._count_from(np.zeros(envs.num_envs), np.zeros(envs.num_envs))

    def reset(self, seed: int) -> None:
        """Starts new episodes everywhere."""
        self.observation = self.envs.reset(seed=seed)
        self._count_from(np.zeros(self.envs.num_envs), np.zeros(self.envs.num_envs))
        self.buffer.begin(self.observation, mask=self.envs.action_mask)
        if self.begins:
            self.exploration.begin()
        if self.with_memory:
            self.actor.begin(self.envs.num_envs)
        if self.observe is not None:
            self._observe(self.observe, self.observation)

    def step(self, clock: Clock) -> None:
        """One step of each environment, whose transitions go into the buffer."""
        envs, buffer = self.envs, self.buffer
        masks = () if envs.action_mask is None else (envs.action_mask,)
        action = self.exploration(self.actor, self.observation, clock, *masks)
        if self.with_memory:
            buffer.keep_state(self.actor.before)
            self.actor.acted(action)
        executed = action if self.as_they_come else action_to_space(envs.action_space, action)
        stepped = envs.step(executed)
        observation, after, rewards, terminated, truncated = stepped[:5]
        valid = None if stepped.all_valid else stepped.valid
        kept = executed if self.is_real else action  # beyond a bound nothing happened
        buffer.add(kept, rewards, terminated, truncated, after, valid, stepped.next_mask)
        self.observation = observation
        if self.observe is not None:
            self._observe(self.observe, after)
        self.steps += envs.num_envs if valid is None else int(valid.sum())
        self._count(rewards, valid)
        if stepped.any_ended:
            for row in np.flatnonzero(terminated | truncated).tolist():
                self.returns.append(float(self._return[row]))
                self.lengths.append(int(self._length[row]))
                self.episodes += 1
                self._return[row], self._length[row] = 0.0, 0
        if stepped.any_begun:
            buffer.begin(self.observation, stepped.begun, envs.action_mask)
            if self.begins:
                self.exploration.begin(np.asarray(stepped.begun))
            if self.with_memory:
                self.actor.begin(envs.num_envs, np.asarray(stepped.begun))

    def _count_from(self, returns: Any, lengths: Any) -> None:
        """Sets the return and the length of each episode under way."""
        self._return: Any = np.array(returns, np.float64)
        self._length: Any = np.array(lengths, np.int64)
        if self.envs.num_envs <= FEW:
            self._return, self._length = self._return.tolist(), self._length.tolist()

    def _count(self, rewards: NDArray[np.float64], valid: NDArray[np.bool_] | None) -> None:
        """Takes a step into the returns and lengths."""
        if self.envs.num_envs > FEW:
            self._return += rewards
            self._length += 1 if valid is None else valid
            too_large = np.abs(rewards) > LARGE_REWARD
            if too_large.any():
                self._warn_once(float(rewards[too_large.argmax()]))
            return
        for row, reward in enumerate(rewards.tolist()):
            if not -LARGE_REWARD <= reward <= LARGE_REWARD:
                self._warn_once(reward)
            self._return[row] += reward
            self._length[row] += 1 if valid is None else int(valid[row])

    def _warn_once(self, reward: float) -> None:
        remedy = getattr(self.buffer, "remedy", TRANSFORM)
        if not self.has_warned and remedy is not None:
            self.has_warned = True
            warn_of_reward(reward, f"by step {self.steps}", remedy)

    def _observe(self, observe: Callable[[Any], None], observation: Any) -> None:
        space = self.buffer.observation_space
        observe(unflatten(space, [torch.as_tensor(np.asarray(leaf)) for leaf in flatten(space, observation)]))

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
            "return": np.array(self._return),
            "length": np.array(self._length),
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
        self._count_from(state["return"], state["length"])
        self.steps, self.episodes = state["steps"], state["episodes"]
        self.returns = deque(state["returns"], WINDOW)
        self.lengths = deque(state["lengths"], WINDOW)
        if hasattr(self.exploration, "load_state"):
            self.exploration.load_state(state["exploration"])
        if hasattr(self.actor, "load_state"):
            self.actor.load_state(state["actor"])


def _state_of(part: Any) -> dict[str, Any]:
    return dict(part.state()) if hasattr(part, "load_state") else {}


class Replay(Source):
    """Steps environments with an exploring actor, and samples transitions from a buffer.

    `train_freq`, `learning_starts` and `total_steps` count environment steps over all environments; the order of
    things is SB3's: `train_freq` steps, then `gradient_steps` updates.

    Args:
        envs: `Environments`; or an environment of any kind that these take, which `close` leaves open.
        actor: chooses actions; a callable, not a submodule: the learner owns the policy.
        buffer: where transitions are kept.
        exploration: how actions are varied; its `num_envs`, and the buffer's, must be that of `envs`.
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
        buffer: ReplayBuffer | SequenceBuffer,
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
        environments = envs if isinstance(envs, Environments) else Environments(envs, is_owned=False)
        self.buffer: Any = buffer
        self.collector = Collector(environments, buffer, actor, exploration, observe)
        self.batch_size, self.learning_starts = batch_size, learning_starts
        self.train_freq, self.gradient_steps = train_freq, gradient_steps
        self.n_steps, self.gamma = n_steps, gamma
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self.total_steps = total_steps
        self.updates_due = 0

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.collector.steps

    @property
    def clock(self) -> Clock:
        """Where the run is; its steps are environment steps."""
        return Clock(self.updates, self.collector.steps, self.collector.steps / self.total_steps)

    @property
    def finished(self) -> bool:
        """Whether the run's environment steps are made, and the updates that belong to them done."""
        return self.updates_due <= 0 and self.collector.steps >= self.total_steps

    def updates_for(self, steps: int) -> int:
        """How many updates belong to a run of `steps` environment steps.

        A few more than there will be where steps of a vector environment only reset (see `Stepped.valid`).
        """
        num_envs = self.collector.envs.num_envs
        per_cycle = -(-self.train_freq // num_envs) * num_envs
        cycles = -(-steps // per_cycle)
        trained = cycles - min(self.learning_starts // per_cycle, cycles)
        return trained * (self.gradient_steps if self.gradient_steps >= 0 else per_cycle)

    def advance(self) -> None:
        """Steps the environments until an update is due."""
        while self.updates_due <= 0:
            made = self.collect()
            if self.collector.steps > self.learning_starts:
                self.updates_due = self.gradient_steps if self.gradient_steps >= 0 else made
        self.updates_due -= 1

    def collect(self) -> int:
        """At least `train_freq` environment steps into the buffer; returns how many."""
        collector, updates, total = self.collector, self.updates, self.total_steps
        if collector.observation is None:
            collector.reset(seed=int(self.generator.integers(2**30)))
        start = collector.steps
        while collector.steps - start < self.train_freq:
            collector.step(Clock(updates, collector.steps, collector.steps / total))
        self.buffer.flush()
        return collector.steps - start

    def sample(self) -> Transition:
        """A batch of transitions."""
        clock = self.batch_clock
        index, weight = self.buffer.draw(self.batch_size, at(self.importance_exponent, clock))
        batch: Transition = self.buffer.gather(index, self.n_steps, self.gamma)
        return batch._replace(weight=weight, clock=clock)

    def feedback(self, batch: Transition, per_sample: Tensor | None) -> None:
        """Priorities from the sizes of the TD errors `(B,)` (Schaul et al. 2016, section 3.3).

        Raises:
            TypeError: there is not one for each sample.
        """
        if per_sample is not None and per_sample.shape != batch.index.shape:
            found, size = tuple(per_sample.shape), len(batch.index)
            raise TypeError(f"per_sample has the shape {found}, but the batch has {size} samples")
        if self.buffer.priorities is not None and per_sample is not None:
            self.buffer.set_priorities(batch.index, (per_sample.abs() + 1e-6) ** self.priority_exponent)

    def measures(self) -> dict[str, float]:
        """Episodes, their last returns and lengths, and the share of random actions."""
        rate = getattr(self.collector.exploration, "rate", None)
        explored = {} if rate is None else {"rollout/exploration_rate": float(rate(self.clock))}
        return self.collector.measures() | explored

    def trouble(self) -> str | None:
        """Large rewards."""
        largest = float(self.buffer.reward.abs().max())
        return f"rewards are up to {largest:.3g}: scale them" if largest > LARGE_REWARD else None

    def about(self) -> dict[str, Any]:
        """Whether there were masks of legal actions in infos."""
        return {LEARNED_WITH_MASKS: True} if self.buffer.masked else {}

    def close(self) -> None:
        """Closes the environments, except those that are the caller's."""
        self.collector.envs.close()

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, generators, and the episodes under way."""
        return super().get_extra_state() | {"updates_due": self.updates_due, "collector": self.collector.state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; `Environments.load_state` plays the episodes under way again."""
        super().set_extra_state(state)
        self.updates_due = state["updates_due"]
        self.collector.load_state(state["collector"])


class SequenceReplay(Replay):
    """Steps environments with an exploring actor that has memory, and samples sequences from a buffer.

    Args are those of `Replay`, except that

        actor: besides being called with observations, is given the starts of episodes (`begin`) and the actions that
            were taken (`acted`), and keeps the state in which it read (`before`), as `agentlib.policies.MemoryActor`.
        batch_size: counts sequences.
        learning_starts: is at least as long as the first sequences are.
    """

    def __init__(
        self,
        envs: Any,
        actor: Any,
        buffer: SequenceBuffer,
        exploration: Exploration,
        *,
        batch_size: int = 32,
        learning_starts: int = 1_000,
        train_freq: int = 16,
        gradient_steps: int = 1,
        total_steps: int = 1,
        observe: Callable[[Any], None] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            envs,
            actor,
            buffer,
            exploration,
            batch_size=batch_size,
            learning_starts=max(learning_starts, buffer.num_envs * (buffer.sequence_length + buffer.period)),
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            total_steps=total_steps,
            observe=observe,
            seed=seed,
        )

    def sample(self) -> Sequences:  # type: ignore[override]
        """A batch of sequences."""
        sequences: Sequences = self.buffer.gather(*self.buffer.draw(self.batch_size))
        return sequences._replace(clock=self.batch_clock)

    def feedback(self, batch: Any, per_sample: Tensor | None) -> None:
        """Nothing: all sequences are equally likely."""
