"""Learning features from data without labels."""

from agentlib.learners.self_supervised.simclr import Projector, SimCLR, SimCLRConfig

__all__ = ["Projector", "SimCLR", "SimCLRConfig"]
