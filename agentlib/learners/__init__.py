"""One file per algorithm, in a folder per family."""

from agentlib.learners.q_learning import DQN, DQNConfig, RecurrentDQN, RecurrentDQNConfig
from agentlib.learners.robustness import AdversarialTraining, AdversarialTrainingConfig
from agentlib.learners.supervised import Classifier, ClassifierConfig, Regressor, RegressorConfig
from agentlib.training import Learner, Update, run

__all__ = [
    "DQN",
    "AdversarialTraining",
    "AdversarialTrainingConfig",
    "Classifier",
    "ClassifierConfig",
    "DQNConfig",
    "Learner",
    "RecurrentDQN",
    "RecurrentDQNConfig",
    "Regressor",
    "RegressorConfig",
    "Update",
    "run",
]
