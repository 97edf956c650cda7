"""Fields that configs of actors with critics share."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from agentlib.backbones import Optimized, adam
from agentlib.core import Rule
from agentlib.core.config import Config, Count, NonNegative, Range, Rate, Unit, Whole
from agentlib.learners.q_learning.settings import Replayed, Stepping
from agentlib.policies.critics import CriticNorm
from agentlib.policies.state_dependent_noise import StateDependentNoisePolicy


@dataclass(frozen=True, kw_only=True)
class StateDependentNoise(Optimized):
    """Exploration of PPO, A2C and SAC in real-valued actions; names and defaults are Stable-Baselines3's."""

    use_sde: bool = False
    """Explore by noise that depends on the state and is kept for several steps (gSDE, Raffin et al. 2022)."""
    sde_sample_freq: Annotated[int, Range(-1)] = -1
    """Steps after which this noise is drawn again within a rollout; -1 draws it at the start of each alone."""

    def look_at_noise_of(self, policy: nn.Module) -> None:
        """Warns where `use_sde` has no effect, since the policy that was given has noise of its own."""
        if self.use_sde and not isinstance(policy, StateDependentNoisePolicy):
            warnings.warn("use_sde has no effect: the agent that goes on keeps its own noise", stacklevel=2)


@dataclass(frozen=True, kw_only=True)
class OffPolicy(Optimized):
    """The networks of learners with critics, and their updates; names and defaults are Stable-Baselines3's."""

    learning_rate: Rate = 3e-4
    gamma: Unit = 0.99
    """Discount factor per environment step."""
    batch_size: Count = 256
    """Transitions per update."""
    tau: Unit = 0.005
    """Share of the way that the target networks move at each of their updates."""
    n_critics: Count = 2
    """Number of critics, of which the smallest value counts."""
    net_arch: tuple[int, ...] | None = (256, 256)
    """Widths of the hidden layers of the policy and of each critic."""
    n_steps: Count = 1
    """Steps of the return before bootstrapping."""
    max_grad_norm: NonNegative | None = None


@dataclass(frozen=True, kw_only=True)
class Hindsight(Stepping, Replayed):
    """The replay of learners with critics, and of goals that were reached without being sought."""

    train_freq: Count = 1
    n_sampled_goal: Whole = 0
    """Relabelled transitions for each real one, in environments with goals (hindsight replay); 0 relabels none."""
    goal_selection_strategy: Literal["future", "final", "episode"] = "future"
    """Where a relabelled goal was reached: later in the episode, at its end, or at any time in it."""


@dataclass(frozen=True, kw_only=True)
class NoisyActions(Config):
    """Noise on real-valued actions."""

    action_noise: NonNegative = 0.0
    """Standard deviation of noise on the actions while training, in units of half the range of the bounds."""
    action_noise_kind: Literal["normal", "ornstein-uhlenbeck"] = "normal"
    """Noise that is drawn for each step, or that drifts through an episode."""


@dataclass(frozen=True, kw_only=True)
class RealValued(OffPolicy):
    """The further fields that SAC and TD3 share: the kind of critics, and how often the policy learns."""

    policy_delay: Count = 1
    """Updates of the critics for each one of the policy."""
    normalize: bool = False
    """Standardize observations by running statistics, which are saved with the agent."""
    qf_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers of each critic; the default is `net_arch`."""
    dropout_rate: Annotated[float, Range(0.0, 0.99)] = 0.0
    """Share of each critic's units that a pass leaves out, those of target networks too (DroQ)."""
    critic_norm: CriticNorm = "none"
    """Normalization in the critics: of each sample ("layer", DroQ), or by the batch ("batch_renorm", CrossQ)."""
    target_networks: bool = True
    """Value next actions by networks that follow slowly; without them, one pass serves both batches (CrossQ)."""
    adam_beta1: Annotated[float, Range(0.0, 0.999)] = 0.9
    """Share of its mean gradient that Adam keeps at each step; CrossQ has 0.5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_norm == "batch_renorm" and self.target_networks:
            raise ValueError(
                'critic_norm="batch_renorm" needs target_networks=False: its statistics are those of one pass over '
                "both batches, which takes the place of target networks (CrossQ)"
            )

    def optimizer(self) -> Rule:
        is_adam = self.optimizer_name == "adam"
        return adam(self.learning_rate, (self.adam_beta1, 0.999)) if is_adam else super().optimizer()


@dataclass(frozen=True, kw_only=True)
class Entropic(Config):
    """The weight of the entropy, alpha, of SAC in its kinds."""

    ent_coef: NonNegative | Literal["auto"] = "auto"
    """Weight alpha of the entropy; "auto" learns it."""
    initial_ent_coef: Annotated[float, Range(1e-8)] = 1.0
    """Weight of the entropy at the start, where it is learned."""

    def log_ent_coef(self) -> nn.Parameter:
        """log alpha `(1,)` at the start; trained if it is learned."""
        first = self.initial_ent_coef if self.ent_coef == "auto" else self.ent_coef
        value = torch.tensor([math.log(first) if first > 0.0 else -math.inf], dtype=torch.float32)
        return nn.Parameter(value, requires_grad=self.ent_coef == "auto")
