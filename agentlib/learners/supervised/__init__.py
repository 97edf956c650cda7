"""Learning from labelled examples."""

from agentlib.learners.supervised.classifier import Classifier, ClassifierConfig
from agentlib.learners.supervised.regressor import Regressor, RegressorConfig

__all__ = ["Classifier", "ClassifierConfig", "Regressor", "RegressorConfig"]
