"""What an agent does with features: heads over a backbone, and exploration."""

from torch import nn

from agentlib.policies.acting import GreedyActor
from agentlib.policies.exploration import EpsilonGreedy
from agentlib.policies.q_policy import QPolicy

__all__ = ["POLICIES", "EpsilonGreedy", "GreedyActor", "QPolicy"]

POLICIES: dict[str, type[nn.Module]] = {"q": QPolicy}
