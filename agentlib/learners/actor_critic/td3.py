"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv:1802.09477).

    a' = clip(pi'(s') + clip(e, -c, c), -1, 1),    e ~ N(0, sigma^2)
    y = r + gamma (1 - terminated) min_i Q'_i(s', a')
    L_Q = sum_i E[ w (Q_i(s, a) - y)^2 ]
    L_pi = -E[ Q_1(s, pi(s)) ],    in every `policy_delay`-th update, in which pi' and Q' follow, too

Actions are between -1 and 1 here, whatever the bounds. Names, defaults and the order of things are
Stable-Baselines3's; it explores without noise unless it is given some, we by the paper's 0.1. One critic, no delay and
no noise on a' is DDPG (Lillicrap et al. 2016, arXiv:1509.02971), trained as "ddpg". The options of critics are SAC's.

From recorded transitions, "td3_bc" stays near to their actions (Fujimoto and Gu 2021, arXiv:2106.06860):

    L_pi = -alpha E[ Q_1(s, pi(s)) ] / E[ |Q_1(s, pi(s))| ] + E[ (pi(s) - a)^2 ]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from agentlib.core import Counterpart, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Rate
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_replay
from agentlib.families.demonstrations import on_transitions
from agentlib.learners.actor_critic import parts, presets
from agentlib.learners.actor_critic.settings import Hindsight, NoisyActions, RealValued
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import Critics, DeterministicPolicy


def smoothed(action: Tensor, noise: float, clip: float) -> Tensor:
    """Actions between -1 and 1 with normal noise of this deviation, itself cut to `[-clip, clip]`."""
    if noise == 0.0 or clip == 0.0:
        return action
    return (action + (noise * torch.randn_like(action)).clamp(-clip, clip)).clamp(-1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class TD3Learning(RealValued):
    """The networks of TD3 and their updates, from replay or from records."""

    learning_rate: Rate = 1e-3
    net_arch: tuple[int, ...] | None = (400, 300)
    policy_delay: Count = 2
    target_policy_noise: NonNegative = 0.2
    """Standard deviation of the noise on the target's actions, which are between -1 and 1."""
    target_noise_clip: NonNegative = 0.5
    """Largest noise on the target's actions."""
    bc_alpha: NonNegative | None = None
    """Weight of the values against the distance to the actions of the data (TD3+BC); None leaves the distance out."""


@dataclass(frozen=True, kw_only=True)
class TD3Config(NoisyActions, Hindsight, TD3Learning):
    """The numbers of a TD3 run; names and, but for the noise, defaults are those of Stable-Baselines3."""

    action_noise: NonNegative = 0.1


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(TD3Learning):
    """The numbers of a run of TD3+BC; defaults are the paper's."""

    learning_rate: Rate = 3e-4
    net_arch: tuple[int, ...] | None = (256, 256)
    normalize: bool = True
    bc_alpha: NonNegative | None = 2.5


class TD3(Learner):
    """TD3, and DDPG by its numbers.

    Args:
        policy: one action for each observation, squashed into its bounds.
        critics: values of observations and actions.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has memory, or its actions are not squashed into bounds.
    """

    def __init__(
        self, policy: DeterministicPolicy, critics: Critics, optimizer: Optimizer, config: TD3Learning = TD3Config()
    ) -> None:
        super().__init__()
        parts.require_squashed("td3", policy)
        self.config, self.policy, self.critics = config, policy, critics
        self.target_policy = parts.target_of(policy, config)
        self.target = parts.target_of(critics, config)
        self.policy_step = Step(policy, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)

    @property
    def is_mean_over_samples(self) -> bool:
        return self.config.bc_alpha is None and self.config.critic_norm != "batch_renorm"

    @classmethod
    def build(cls, backbone: nn.Module, config: TD3Learning, facts: ControlFacts) -> Self:
        """On a backbone for its policy, or of an agent's policy, with new critics; raises what `policy_on` raises."""
        policy = parts.policy_on("td3", backbone, facts, DeterministicPolicy, DeterministicPolicy)
        return cls(policy, parts.critics_for(config, facts, policy), config.optimizer(), config)

    before_update, value = parts.when_policy_is_due, parts.value_of_policy

    def update(self, batch: Transition) -> Update:
        """One step of the critics, and of the policy if it is due; `per_sample` holds their mean TD errors `(B,)`."""
        config, bounds = self.config, self.policy.bounds
        recorded_action = bounds.relative(bounds.flat(batch.action))  # (B, d)
        with torch.no_grad():
            next_action = bounds.relative((self.target_policy or self.policy)(batch.next_observation)[0])  # (B, d)
            next_action = smoothed(next_action, config.target_policy_noise, config.target_noise_clip)
        values, next_values = parts.values_with_next(self.critics, self.target, batch, recorded_action, next_action)
        y = td_target(batch.reward, batch.discount, batch.terminated, next_values.amin(0))  # (B,)
        error = values - y  # (n, B)
        loss = (batch.weight * error.square()).mean(1).sum()
        norm = self.critics_step(loss, batch.clock)
        metrics = {"critic_loss": loss.detach(), "q_value": y.mean(), "grad_norm": norm}
        if self.phase is not False:
            action = bounds.relative(self.policy(batch.observation)[0])
            value = self.critics.value(0, batch.observation, action)  # (B,)
            actor_loss = -value.mean()
            if config.bc_alpha is not None:
                scale = config.bc_alpha / value.detach().abs().mean()
                actor_loss = scale * actor_loss + (action - recorded_action).square().mean()
            self.policy_step(actor_loss, batch.clock)
            for target in (self.target_policy, self.target):
                if target is not None:
                    target.follow()
            metrics["actor_loss"] = actor_loss.detach()
        return Update(metrics, per_sample=error.detach().mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: Pendulum, two layers of 16."""
        sizes: Any = {"buffer_size": 500, "batch_size": 16, "net_arch": (16, 16)}
        config = TD3Config(learning_rate=3e-3, learning_starts=64, **sizes)
        return RECIPE.tiny(cls, config, seed, env="Pendulum-v1")


RECIPE = Recipe(
    "td3",
    TD3,
    TD3Config,
    on_replay,
    "twin delayed DDPG (Fujimoto et al. 2018), real-valued actions",
    steps=100_000,
    presets=presets.TD3_PRESETS,
    sb3=Counterpart("TD3"),
)
DDPG = replace(
    RECIPE,
    name="ddpg",
    summary="td3 with one critic, without delay and noise on targets (Lillicrap et al. 2016)",
    presets=presets.DDPG_PRESETS,
    sb3=Counterpart("DDPG", presets.DDPG_NUMBERS),
)
TD3_BC = replace(
    RECIPE,
    name="td3_bc",
    config=TD3BCConfig,
    family=on_transitions,
    summary="td3 near recorded actions (Fujimoto and Gu 2021), from episodes with rewards; real-valued actions",
    steps=20_000,
    presets={},
    sb3=None,
)
