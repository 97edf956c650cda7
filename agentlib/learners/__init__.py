"""One file per algorithm, in a folder per family."""

from agentlib.learners.meta import MAML, MAMLConfig, Prototypical, PrototypicalConfig
from agentlib.learners.q_learning import DQN, DQNConfig
from agentlib.learners.self_supervised import SimCLR, SimCLRConfig
from agentlib.training import Learner, Update, run

__all__ = [
    "DQN",
    "MAML",
    "DQNConfig",
    "Learner",
    "MAMLConfig",
    "Prototypical",
    "PrototypicalConfig",
    "SimCLR",
    "SimCLRConfig",
    "Update",
    "run",
]
