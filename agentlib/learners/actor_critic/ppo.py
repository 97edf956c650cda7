"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347).

    r = p(a | s) / p_old(a | s),     A by generalized advantage estimation
    L = -E[ min(r A, clip(r, 1 - eps, 1 + eps) A) ] + c_v E[ (V(s) - R)^2 ] - c_e E[ H(p(. | s)) ],     R = A + V_old(s)

The steps are those of the present policy, and are learned from in a few epochs of minibatches, in which A is brought to
mean 0 and deviation 1 (`agentlib.experience.Rollout`). Policy and critic have layers of their own on one encoder; where
these have memory, minibatches are of sequences (`agentlib.experience.SequenceRollout`).

Names, defaults and order are Stable-Baselines3's: gradients are clipped by their norm, and weights start orthogonal,
unlike the paper. One thing differs: SB3 leaves out the minibatch at which `target_kl` ends the epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import adam, initialize
from agentlib.core import Counterpart, Learner, Optimizer, Recipe, Rule, Source, Step, Update, at
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.experience.transition import Minibatch
from agentlib.families.control import ControlFacts
from agentlib.families.rollouts import on_rollouts
from agentlib.learners.actor_critic.on_policy_presets import PPO_PRESETS
from agentlib.learners.actor_critic.settings import StateDependentNoise
from agentlib.policies import ActorCritic, StochasticPolicy, policy_for
from agentlib.policies.base import is_policy


def clipped_loss(ratio: Tensor, advantage: Tensor, clip_range: Any) -> Tensor:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A), `(B,)`, for ratios and advantages `(B,)` (equation 7)."""
    return -torch.min(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)


def normalized(advantage: Tensor, weight: Tensor) -> Tensor:
    """Advantages `(B,)` with mean 0 and deviation 1 over those whose weight `(B,)` is not 0; a single one as it is."""
    count = (weight > 0.0).sum().to(weight.dtype)
    centered = advantage - (weight * advantage).sum()
    variance = (weight * centered.square()).sum() * (count / (count - 1).clamp(min=1))
    return torch.where(count > 1, centered / (variance.sqrt() + 1e-8), advantage)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(StateDependentNoise):
    """The numbers of a PPO run; names and defaults are those of Stable-Baselines3."""

    learning_rate: Rate = 3e-4
    n_steps: Count = 2_048
    """Steps of each environment between updates."""
    batch_size: Count | None = 64  # type: ignore[assignment]
    """Steps per update; None takes the whole rollout."""
    n_epochs: Count = 10
    """How often each step is learned from."""
    gamma: Unit = 0.99
    """Discount factor per environment step."""
    gae_lambda: Unit = 0.95
    """Trade-off of the advantages between bias (0: one step) and variance (1: whole returns)."""
    clip_range: Rate = 0.2
    """How far the ratio of probabilities may go from 1 before it is clipped."""
    clip_range_vf: Rate | None = None
    """How far a value may go from the old one before it is clipped, in the unit of returns; None disables clipping."""
    normalize_advantage: bool = True
    """Bring the advantages of each minibatch to mean 0 and deviation 1."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy."""
    vf_coef: NonNegative = 0.5
    """Weight of the critic's loss."""
    max_grad_norm: NonNegative | None = 0.5
    sequence_length: Count | None = None
    """Steps of a sequence where the network has memory; None for as many as a minibatch and the rollout have."""
    target_kl: NonNegative | None = None
    """End the epochs of a rollout once the divergence from the policy that acted is above 1.5 times this."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the policy's layers; the default is 64 and 64, and no layers after a convolutional network."""
    vf_arch: tuple[int, ...] | None = None
    """Widths of the critic's layers; the default is those of the policy's."""
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu"] = "tanh"
    """Nonlinearity of these layers."""
    ortho_init: bool = True
    """Start with orthogonal weights; those of a memory, and of a backbone that is ready, stay as they are."""
    log_std_init: float = 0.0
    """Logarithm of the standard deviation of real-valued actions, or of the noise of `use_sde`, at the start."""
    normalize: bool = False
    """Standardize observations by running statistics, which are saved with the agent."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted returns."""

    def optimizer(self) -> Rule:
        return adam(self.learning_rate, eps=1e-5) if self.optimizer_name == "adam" else super().optimizer()


class PPO(Learner):
    """Proximal policy optimization. Of processes that share a minibatch, advantages are normalized over all of it.

    Args:
        networks: the policy and its critic.
        optimizer: a rule such as `adam(learning_rate=3e-4, eps=1e-5)`.
        config: this algorithm's numbers.
    """

    def __init__(self, networks: ActorCritic, optimizer: Optimizer, config: PPOConfig = PPOConfig()) -> None:
        super().__init__()
        self.config, self.networks = config, networks
        self.step = Step(networks, optimizer, config.max_grad_norm)

    @property
    def policy(self) -> StochasticPolicy:
        """The policy that acts."""
        return self.networks.policy

    @property
    def is_mean_over_samples(self) -> bool:
        """Weighted, by weights whose sum over the whole minibatch is 1; with memory, steps come in sequences."""
        return not self.policy.is_sequence

    @staticmethod
    def layers(config: Any) -> dict[str, Any]:
        return {"activation": config.activation}

    @classmethod
    def build(cls, backbone: nn.Module, config: PPOConfig, facts: ControlFacts) -> Self:
        """A learner on a backbone, or of a policy that gives a distribution over actions.

        Raises:
            ValueError: another policy, or an action space that no policy acts in.
        """
        policy: Any = backbone
        if not is_policy(backbone):
            policy = policy_for(facts.action_space, backbone, log_std=config.log_std_init, use_sde=config.use_sde)
        if not isinstance(policy, StochasticPolicy):
            raise ValueError(f"ppo goes on from an agent with a distribution of actions, not {type(policy).__name__}")
        config.look_at_noise_of(policy)
        networks = ActorCritic(policy, config.vf_arch)
        if config.ortho_init:
            initialize(networks.critic, "orthogonal", math.sqrt(2.0))
            initialize(networks.head, "orthogonal")
            if policy is not backbone:
                initialize(policy.head, "orthogonal", 0.01)  # type: ignore[arg-type]
        return cls(networks, config.optimizer(), config)

    def value(self, observation: Any, mask: Tensor | None = None) -> Tensor:
        """The values `(B,)` of observations, by the critic, which does not look at masks."""
        return self.networks(observation)[1]  # type: ignore[no-any-return]

    def update(self, batch: Minibatch) -> Update:
        """One step on a minibatch; `per_sample` holds estimates of the divergence from the old policy `(B,)`."""
        config, policy, advantage, weight = self.config, self.policy, batch.advantage, batch.weight
        if config.normalize_advantage:
            advantage = self.of_whole(normalized, advantage, weight)
        weight = weight if self.ranks is None else weight * self.ranks.size  # their gradients are averaged, not summed
        output, value = self.networks(batch.observation, batch.state, batch.episode_start)
        if batch.mask is not None:
            output = policy.masked(output, batch.mask)  # type: ignore[operator]
        log_ratio = policy.log_prob(output, batch.action) - batch.log_prob
        ratio, clip = log_ratio.exp(), at(config.clip_range, batch.clock)
        policy_loss = (weight * clipped_loss(ratio, advantage, clip)).sum()
        if config.clip_range_vf is not None:
            most = at(config.clip_range_vf, batch.clock)
            value = batch.value + (value - batch.value).clamp(-most, most)
        value_loss = (weight * (value - batch.returns).square()).sum()
        entropy = (weight * policy.entropy(output)).sum()
        loss = policy_loss + config.vf_coef * value_loss
        if config.ent_coef:
            loss = loss - config.ent_coef * entropy
        norm = self.step(loss, batch.clock)
        with torch.no_grad():
            divergence = (ratio - 1.0) - log_ratio  # KL(old, new), as an estimate that is never below 0 (Schulman 2020)
            metrics = {
                "loss": loss,
                "policy_gradient_loss": policy_loss,
                "value_loss": value_loss,
                "entropy_loss": -entropy,
                "approx_kl": (weight * divergence).sum(),
                "clip_fraction": (weight * ((ratio - 1.0).abs() > clip)).sum(),
                "grad_norm": norm,
            }
        return Update({name: metric.detach() for name, metric in metrics.items()}, per_sample=divergence.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: CartPole, two environments, two layers of 16."""
        config = PPOConfig(learning_rate=1e-3, n_steps=32, batch_size=16, n_epochs=4, ent_coef=0.01, net_arch=(16, 16))
        return RECIPE.tiny(cls, config, seed, env="CartPole-v1", n_envs=2)


RECIPE = Recipe(
    "ppo",
    PPO,
    PPOConfig,
    on_rollouts,
    "proximal policy optimization (Schulman et al. 2017), any actions",
    steps=100_000,
    presets=PPO_PRESETS,
    sb3=Counterpart("PPO", variants={("backbone", "lstm"): "RecurrentPPO", ("masks", True): "MaskablePPO"}),
)
