"""Attacks, and learning that withstands them."""

from agentlib.learners.robustness.adversarial_training import AdversarialTraining, AdversarialTrainingConfig
from agentlib.learners.robustness.ascent import perturb
from agentlib.learners.robustness.attacks import attack

__all__ = ["AdversarialTraining", "AdversarialTrainingConfig", "attack", "perturb"]
