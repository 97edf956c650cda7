"""Attacks, and learning that withstands them."""

from agentlib.metrics.attacks import attack, perturb

__all__ = ["attack", "perturb"]
