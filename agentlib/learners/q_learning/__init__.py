"""Learning action values from replayed experience."""

from agentlib.learners.q_learning.dqn import DQN, DQNConfig

__all__ = ["DQN", "DQNConfig"]
