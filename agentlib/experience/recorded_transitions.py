"""Transitions of recorded episodes, for learners that need rewards and what came next, but no environment."""

from __future__ import annotations

from agentlib.core.source import Source
from agentlib.experience.demonstrations import Demonstrations
from agentlib.experience.replay import LARGE_REWARD, warn_of_reward
from agentlib.experience.replay_buffer import ReplayBuffer
from agentlib.experience.transition import Transition


class RecordedTransitions(Source):
    """Batches of transitions, each step of all episodes equally likely. Checkpoints do not hold the data.

    Args:
        demonstrations: the episodes to learn from, good and bad ones alike.
        batch_size: transitions per batch.
        n_steps: steps of the returns.
        gamma: discount per step.
        seed: of the draws.

    Raises:
        ValueError: there are no steps.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        batch_size: int = 256,
        *,
        n_steps: int = 1,
        gamma: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if not demonstrations.steps:
            raise ValueError("there are no steps to learn from")
        self.batch_size, self.n_steps, self.gamma = batch_size, n_steps, gamma
        space, actions = demonstrations.observation_space, demonstrations.action_space
        self.buffer = ReplayBuffer(space, actions, demonstrations.steps)
        demonstrations.fill(self.buffer)
        self.buffer.is_saved = False
        largest = float(self.buffer.reward.abs().max())
        if largest > LARGE_REWARD:
            warn_of_reward(largest, "in the data")

    def fingerprint(self) -> str:
        return self.buffer.fingerprint()

    def sample(self) -> Transition:
        """A batch of transitions."""
        index, _ = self.buffer.draw(self.batch_size)
        return self.buffer.gather(index, self.n_steps, self.gamma)._replace(clock=self.batch_clock)
