"""A policy and a critic that read the same observations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from agentlib.backbones import MLP, Chain, Observation
from agentlib.policies.base import StochasticPolicy


class ActorCritic(nn.Module):
    """A policy and the values of states, each with layers of its own on one encoder of observations, as SB3 has it.

    Where the policy's backbone is an MLP, there is no encoder; where it ends in one (a `Chain` of two), the encoder is
    what comes before. Any other backbone, such as a CNN, is the encoder itself.

    Args:
        policy: without memory.
        hidden: widths of the critic's layers; by default those of the policy's.
    """

    def __init__(self, policy: StochasticPolicy, hidden: Sequence[int] | None = None) -> None:
        super().__init__()
        self.policy = policy
        layers, width = _layers(policy.backbone), policy.feature_dim
        usual: Sequence[int] = ()
        if layers is not None:
            width, usual = layers.input_dim, layers.hidden
        activation = "relu" if layers is None else layers.activation
        self.critic = MLP(width, usual if hidden is None else hidden, activation)
        self.head = nn.Linear(self.critic.feature_dim, 1)

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """The policy's output `(B, n)`, and values `(B,)`."""
        backbone, layers = self.policy.backbone, _layers(self.policy.backbone)
        if layers is None:
            encoded = features = backbone(observation)
        else:
            encoded = backbone.stages[0](observation) if isinstance(backbone, Chain) else observation
            features = layers(encoded)
        return self.policy.output_of(features), self.head(self.critic(encoded)).squeeze(-1)


def _layers(backbone: nn.Module) -> MLP | None:
    """The layers of a policy that are its own; None where all belong to the encoder."""
    if isinstance(backbone, Chain) and len(backbone.stages) == 2:
        backbone = backbone.stages[1]
    return backbone if isinstance(backbone, MLP) else None
