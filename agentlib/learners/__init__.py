"""One file per algorithm, in a folder per family."""

from agentlib.learners.q_learning import DQN, DQNConfig, RecurrentDQN, RecurrentDQNConfig
from agentlib.training import Learner, Update, run

__all__ = ["DQN", "DQNConfig", "Learner", "RecurrentDQN", "RecurrentDQNConfig", "Update", "run"]
