"""Attacks, and learning that withstands them."""

from agentlib.metrics.ascent import perturb
from agentlib.metrics.attacks import attack

__all__ = ["attack", "perturb"]
