"""Learning action values from replayed experience."""

from agentlib.learners.q_learning.dqn import DQN, DQNConfig
from agentlib.learners.q_learning.recurrent_dqn import RecurrentDQN, RecurrentDQNConfig

__all__ = ["DQN", "DQNConfig", "RecurrentDQN", "RecurrentDQNConfig"]
