"""Off-policy experience as a source: environments are stepped, and batches sampled from their transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from agentlib.core.schedules import Clock, Schedule, at
from agentlib.core.source import Source
from agentlib.envs.vector import Environments
from agentlib.experience.collection import Actor, Collector, Exploration
from agentlib.experience.replay_buffer import ReplayBuffer
from agentlib.experience.transition import Transition


class Replay(Source):
    """Steps environments with an exploring actor, and samples transitions from a buffer.

    `train_freq`, `learning_starts` and `total_steps` count environment steps over all environments; the order of
    things is SB3's: `train_freq` steps, then `gradient_steps` updates.

    Args:
        envs: `Environments`; or an environment of any kind that these take, which `close` leaves open.
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
        environments = envs if isinstance(envs, Environments) else Environments(envs, is_owned=False)
        self.buffer = buffer
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
        return self.steps >= self.total_steps and self.updates_due <= 0

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
        batch = self.buffer.gather(index, self.n_steps, self.gamma)
        return batch._replace(weight=weight, clock=clock)

    def feedback(self, batch: Transition, per_sample: Tensor | None) -> None:
        """Priorities from the sizes of the TD errors `(B,)` (Schaul et al. 2016, section 3.3)."""
        if self.buffer.priorities is not None and per_sample is not None:
            self.buffer.set_priorities(batch.index, (per_sample.abs() + 1e-6) ** self.priority_exponent)

    def measures(self) -> dict[str, float]:
        """Episodes, their last returns and lengths, and the share of random actions."""
        rate = getattr(self.collector.exploration, "rate", None)
        explored = {} if rate is None else {"rollout/exploration_rate": float(rate(self.clock))}
        return self.collector.measures() | explored

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
