"""Off-policy experience in sequences, for policies with memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.schedules import Clock
from agentlib.envs.vector import Environments, Stepped
from agentlib.experience.collection import Collector, Exploration
from agentlib.experience.replay import Replay
from agentlib.experience.sequence_buffer import SequenceBuffer, Sequences


class SequenceCollector(Collector):
    """Gives the actor its actions and the starts of episodes, and keeps the states in which it read."""

    buffer: Any
    actor: Any

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self.actor.begin(self.envs.num_envs)

    def choose(self, clock: Clock) -> NDArray[Any]:
        action = super().choose(clock)
        self.buffer.keep_state(self.actor.before)
        self.actor.acted(action)
        return action

    def keep(self, action: NDArray[Any], stepped: Stepped) -> None:
        super().keep(action, stepped)
        if stepped.any_begun:
            self.actor.begin(self.envs.num_envs, np.asarray(stepped.begun))


class SequenceReplay(Replay):
    """Steps environments with an exploring actor that has memory, and samples sequences from a buffer.

    Args:
        envs: `Environments`; or an environment of any kind that these take, which `close` leaves open.
        actor: chooses actions, such as `agentlib.policies.MemoryActor`: besides being called with observations, it is
            given the starts of episodes (`begin`) and the actions that were taken (`acted`), and keeps the state in
            which it read (`before`).
        buffer: where sequences are kept.
        exploration: how actions are varied.
        batch_size: sequences per batch.
        learning_starts: steps with random actions before the first update.
        train_freq: steps between updates.
        gradient_steps: updates after those steps; -1 for as many as there were steps.
        total_steps: the length of the run, for schedules.
        observe: takes each batch of new observations (trees of tensors), for running statistics.
        seed: of environments, random actions and sampling.
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
        environments = envs if isinstance(envs, Environments) else Environments(envs, is_owned=False)
        super().__init__(
            environments,
            actor,
            buffer,  # type: ignore[arg-type]
            exploration,
            batch_size=batch_size,
            learning_starts=learning_starts,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            total_steps=total_steps,
            observe=observe,
            seed=seed,
        )
        self.collector = SequenceCollector(environments, buffer, actor, exploration, observe)  # type: ignore[arg-type]
        # The first update needs sequences to learn from.
        self.learning_starts = max(learning_starts, environments.num_envs * (buffer.sequence_length + buffer.period))

    def sample(self) -> Sequences:  # type: ignore[override]
        """A batch of sequences."""
        buffer: Any = self.buffer
        sequences: Sequences = buffer.gather(*buffer.draw(self.batch_size))
        return sequences._replace(clock=self.batch_clock)

    def feedback(self, batch: Any, per_sample: Tensor | None) -> None:
        """Nothing: all sequences are equally likely."""
