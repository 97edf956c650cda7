"""What an agent does with features: heads over a backbone, ensembles of them, and exploration."""

from agentlib.backbones import Described
from agentlib.policies.acting import EpsilonGreedy, GreedyActor, MemoryActor
from agentlib.policies.actor_critic import ActorCritic
from agentlib.policies.base import Policy, StochasticPolicy
from agentlib.policies.continuous import DeterministicPolicy, GaussianPolicy
from agentlib.policies.critics import Critics
from agentlib.policies.diffusion_policy import DiffusionPolicy
from agentlib.policies.discrete import (
    BernoulliPolicy,
    CategoricalPolicy,
    DiscretePolicy,
    MultiCategoricalPolicy,
    RotationPolicy,
)
from agentlib.policies.ensemble import EnsemblePolicy
from agentlib.policies.exploring import ActionNoise, SampledActor
from agentlib.policies.fitting import policy_for
from agentlib.policies.predictor import Predictor
from agentlib.policies.q_policy import QPolicy
from agentlib.policies.state_dependent_noise import (
    NoiseMatrices,
    StateDependentNoiseActor,
    StateDependentNoisePolicy,
    exploring_actor,
)
from agentlib.policies.student import DisagreementGate, Student, UnsureGate

__all__ = [
    "POLICIES",
    "ActionNoise",
    "ActorCritic",
    "BernoulliPolicy",
    "CategoricalPolicy",
    "Critics",
    "DeterministicPolicy",
    "DiffusionPolicy",
    "DisagreementGate",
    "DiscretePolicy",
    "EnsemblePolicy",
    "EpsilonGreedy",
    "GaussianPolicy",
    "GreedyActor",
    "MemoryActor",
    "MultiCategoricalPolicy",
    "NoiseMatrices",
    "Policy",
    "Predictor",
    "QPolicy",
    "RotationPolicy",
    "SampledActor",
    "StateDependentNoiseActor",
    "StateDependentNoisePolicy",
    "StochasticPolicy",
    "Student",
    "UnsureGate",
    "exploring_actor",
    "policy_for",
]

_POLICIES: tuple[type[Described], ...] = (
    QPolicy, CategoricalPolicy, MultiCategoricalPolicy, BernoulliPolicy, GaussianPolicy, DeterministicPolicy,
    StateDependentNoisePolicy, DiffusionPolicy, Predictor, EnsemblePolicy, RotationPolicy,
)  # fmt: skip
POLICIES = {policy.kind: policy for policy in _POLICIES}
"""Policies by their names in files."""
