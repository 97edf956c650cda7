"""Learning to learn: from many tasks, so that a new one takes few examples."""

from agentlib.learners.meta.maml import MAML, MAMLConfig
from agentlib.learners.meta.prototypical import Prototypical, PrototypicalConfig

__all__ = ["MAML", "MAMLConfig", "Prototypical", "PrototypicalConfig"]
