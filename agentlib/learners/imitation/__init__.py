"""Learning from an expert: from its demonstrations, and from its answers."""

from agentlib.learners.imitation.bc import BC, BCConfig
from agentlib.learners.imitation.dagger import DAggerConfig
from agentlib.learners.imitation.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from agentlib.learners.imitation.diffusion_bc import DiffusionBC, DiffusionBCConfig

__all__ = [
    "BC",
    "BCConfig",
    "DAggerConfig",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "DiffusionBC",
    "DiffusionBCConfig",
]
