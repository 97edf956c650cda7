"""Attacks, and learning that withstands them."""

from agentlib.learners.robustness.attacks import attack, perturb

__all__ = ["attack", "perturb"]
