"""Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783), of synchronous environments.

    L = -E[ A log p(a | s) ] + c_v E[ (V(s) - R)^2 ] - c_e E[ H(p(. | s)) ],     R = A + V_old(s)

It is PPO with one epoch of the whole rollout (Huang et al. 2022, arXiv:2205.09123): the ratio of probabilities is 1
then, nothing is clipped, and the gradient of r A is that of A log p. Rollouts are short, and the rule is RMSProp.

Names and defaults are Stable-Baselines3's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentlib.backbones import rmsprop
from agentlib.core import Counterpart, Rule
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.learners.actor_critic.on_policy_presets import A2C_PRESETS
from agentlib.learners.actor_critic.ppo import RECIPE as PPO_RECIPE
from agentlib.learners.actor_critic.ppo import PPOConfig


@dataclass(frozen=True, kw_only=True)
class A2CConfig(PPOConfig):
    """The numbers of an A2C run; names and defaults are those of Stable-Baselines3."""

    learning_rate: Rate = 7e-4
    """Learning rate: a number or a schedule."""
    n_steps: Count = 5
    """Steps of each environment between updates."""
    batch_size: Count | None = None
    """Steps per update; None takes the whole rollout."""
    n_epochs: Count = 1
    """How often each step is learned from."""
    gae_lambda: Unit = 1.0
    """Trade-off of the advantages between bias (0: one step) and variance (1: whole returns)."""
    normalize_advantage: bool = False
    """Bring the advantages of each minibatch to mean 0 and deviation 1."""
    use_rms_prop: bool = True
    """Use RMSProp in place of Adam."""
    rms_prop_eps: NonNegative = 1e-5
    """Number that RMSProp adds to its divisor."""

    def optimizer(self) -> Rule:
        if not self.use_rms_prop or self.optimizer_name != "adam":
            return super().optimizer()
        return rmsprop(self.learning_rate, eps=self.rms_prop_eps)


RECIPE = replace(
    PPO_RECIPE,
    name="a2c",
    config=A2CConfig,
    summary="advantage actor-critic (Mnih et al. 2016), any actions",
    presets=A2C_PRESETS,
    sb3=Counterpart("A2C"),
)
