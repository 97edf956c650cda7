"""One file per algorithm, in a folder per family."""

from agentlib.learners.imitation import BC, BCConfig, DAggerConfig
from agentlib.learners.q_learning import DQN, DQNConfig, RecurrentDQN, RecurrentDQNConfig
from agentlib.training import Learner, Update, run

__all__ = [
    "BC",
    "DQN",
    "BCConfig",
    "DAggerConfig",
    "DQNConfig",
    "Learner",
    "RecurrentDQN",
    "RecurrentDQNConfig",
    "Update",
    "run",
]
