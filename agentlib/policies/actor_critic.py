"""A policy and a critic that read the same observations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from agentlib.backbones import MLP, Chain, Observation, WithMemory
from agentlib.policies.base import StochasticPolicy


class ActorCritic(nn.Module):
    """A policy and the values of states, each with layers of its own on one encoder of observations, as SB3 has it.

    Where the policy's backbone is an MLP, there is no encoder; where it ends in one (a `Chain` of two), the encoder is
    what comes before. Any other backbone, such as a CNN, is the encoder itself. Where the policy has memory, the critic
    has its own, which starts as a copy, on the encoder of a `WithMemory`.

    Args:
        policy: gives a distribution over actions.
        hidden: widths of the critic's layers; by default those of the policy's, and none behind a memory.

    Raises:
        ValueError: the policy's memory reads the last action.
    """

    def __init__(self, policy: StochasticPolicy, hidden: Sequence[int] | None = None) -> None:
        super().__init__()
        self.policy = policy
        layers, width = _layers(policy.backbone), policy.feature_dim
        usual: Sequence[int] = ()
        if layers is not None:
            width, usual = layers.input_dim, layers.hidden
        if getattr(policy.backbone, "previous_action", None) is not None:
            raise ValueError("a critic reads observations alone: build the memory with previous_action=None")
        self.memory: Any = copy.deepcopy(_memory(policy.backbone)) if policy.is_sequence else None
        activation = "relu" if layers is None else layers.activation
        self.critic = MLP(width, usual if hidden is None else hidden, activation)
        self.head = nn.Linear(self.critic.feature_dim, 1)

    def forward(
        self, observation: Observation, state: Any = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The policy's output `(B, n)`, and values `(B,)`.

        With memory, of sequences `(S, L, ...)`, as `read` takes them: B = S L, one sequence behind the other.
        """
        if self.memory is not None:
            features, value, _ = self.read(observation, state, episode_start)
            return self.policy.output_of(features.flatten(0, 1)), value.flatten()
        backbone, layers = self.policy.backbone, _layers(self.policy.backbone)
        if layers is None:
            encoded = features = backbone(observation)
        else:
            encoded = backbone.stages[0](observation) if isinstance(backbone, Chain) else observation
            features = layers(encoded)
        return self.policy.output_of(features), self.head(self.critic(encoded)).squeeze(-1)

    def read(
        self, observation: Observation, state: Any = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Any]:
        """With memory: the policy's features `(S, L, n)`, values `(S, L)`, and the next state of both.

        Args:
            observation: a tree of tensors `(S, L, ...)`.
            state: from the call before; that of a new episode by default.
            episode_start: `(S, L)` bool, where the state is reset before the step is read.
        """
        backbone, (of_policy, of_critic) = self.policy.backbone, state or (None, None)
        inputs = observation
        if isinstance(backbone, WithMemory):
            inputs, of_policy = backbone.encode(observation, of_policy, episode_start)
        features, of_policy = _memory(backbone)(inputs, of_policy, episode_start)
        seen, of_critic = self.memory(inputs, of_critic, episode_start)
        values = self.head(self.critic(seen.flatten(0, 1))).reshape(seen.shape[:2])
        return features, values, (of_policy, of_critic)

    def initial_state(self, batch_size: int) -> Any:
        """The memory of both at the start of `batch_size` episodes."""
        return self.policy.initial_state(batch_size), self.memory.initial_state(batch_size)


def _layers(backbone: nn.Module) -> MLP | None:
    """The layers of a policy that are its own; None where all belong to the encoder."""
    if isinstance(backbone, Chain) and len(backbone.stages) == 2:
        backbone = backbone.stages[1]
    return backbone if isinstance(backbone, MLP) else None


def _memory(backbone: nn.Module) -> Any:
    """The part of a network with memory that comes behind the encoder of single observations."""
    return backbone.memory if isinstance(backbone, WithMemory) else backbone
