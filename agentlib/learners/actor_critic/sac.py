"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905).

    y = r + gamma (1 - terminated) [ min_i Q'_i(s', a') - alpha log pi(a' | s') ],    a' ~ pi(. | s')
    L_Q = 1/2 sum_i E[ w (Q_i(s, a) - y)^2 ]
    L_pi = E[ alpha log pi(a | s) - min_i Q_i(s, a) ],    a ~ pi(. | s)
    L_alpha = -log alpha E[ log pi(a | s) + H ],    H = -dim(a)

a = tanh(u) with a normally distributed u, drawn so that gradients flow through it; log pi is computed from u, and is
exact at the bounds, where Stable-Baselines3 adds 1e-6 inside the logarithm. Q' follows Q by the share tau at each
update. Names, defaults and the order of things (temperature, critics, policy, targets) are Stable-Baselines3's.

With `use_sde` (gSDE) each action of a batch has noise of its own, where SB3 draws one for the whole batch: the
distributions are the same. As options of the critics:

- REDQ (Chen et al. 2021, arXiv:2101.05982): `target_subset` of many critics; the policy raises the mean of all.
- "tqc" (Kuznetsov et al. 2020, arXiv:2005.04269): each critic gives `n_quantiles` of the return; the target are those
  of all critics but the highest, and the policy raises their mean.
- "droq" (Hiraoka et al. 2022, arXiv:2110.02034): critics with dropout and layer normalization, and 20 updates for each
  step, the last of them of the policy, which raises the mean of both.
- "crossq" (Bhatt et al. 2024, arXiv:1902.05605): wide critics with batch renormalization in place of Q'. Its policy has
  no normalization, which theirs has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.core import Counterpart, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range, Whole
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_replay
from agentlib.learners.actor_critic import parts, presets
from agentlib.learners.actor_critic.settings import Entropic, Hindsight, NoisyActions, RealValued, StateDependentNoise
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import Critics, GaussianPolicy, policy_for
from agentlib.policies.critics import smallest, without_highest
from agentlib.policies.value_losses import quantile_huber_loss


@dataclass(frozen=True, kw_only=True)
class SACConfig(Entropic, NoisyActions, Hindsight, RealValued, StateDependentNoise):
    """The numbers of a SAC run; names and defaults are those of Stable-Baselines3."""

    target_entropy: float | Literal["auto"] = "auto"
    """Entropy that a learned weight aims at, of actions between -1 and 1; "auto" is minus their number."""
    log_std_init: float = -3.0
    """Logarithm of the standard deviation of the noise of `use_sde` at the start."""
    target_subset: Count | None = None
    """Critics, chosen at random, whose smallest value is the target (REDQ); the policy then raises the mean of all."""
    n_quantiles: Annotated[int, Range(2)] | None = None
    """Number of quantiles of the return that each critic gives (TQC); None for its mean."""
    top_quantiles_to_drop_per_net: Whole = 2
    """Quantiles for each critic that are left out of the target, the highest of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_quantiles is not None and self.top_quantiles_to_drop_per_net >= self.n_quantiles:
            raise ValueError(
                f"SACConfig.top_quantiles_to_drop_per_net must be below n_quantiles, not "
                f"{self.top_quantiles_to_drop_per_net} and {self.n_quantiles}"
            )
        if self.n_quantiles is not None and self.target_subset is not None:
            raise ValueError(
                "SACConfig.target_subset chooses among values, and with n_quantiles critics have none: leave one out"
            )


class SAC(Learner):
    """Soft actor-critic.

    Args:
        policy: a squashed normal distribution whose deviation depends on the observation.
        critics: values of observations and actions.
        optimizer: a rule such as `adam(learning_rate=3e-4)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has memory, or its actions are not squashed into bounds.
    """

    def __init__(
        self, policy: GaussianPolicy, critics: Critics, optimizer: Optimizer, config: SACConfig = SACConfig()
    ) -> None:
        super().__init__()
        parts.require_squashed("sac", policy)
        self.config, self.policy, self.critics = config, policy, critics
        self.target = parts.target_of(critics, config)
        self.policy_step = Step(policy, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)
        self.log_ent_coef = config.log_ent_coef()
        self.ent_coef_step = Step(self.log_ent_coef, optimizer) if self.log_ent_coef.requires_grad else None
        given = config.target_entropy
        self.target_entropy = -float(policy.bounds.size) if given == "auto" else given

    @property
    def is_mean_over_samples(self) -> bool:
        return self.config.critic_norm != "batch_renorm"

    @classmethod
    def build(cls, backbone: nn.Module, config: SACConfig, facts: ControlFacts) -> Self:
        """On a backbone for its policy, or of an agent's policy, with new critics; raises what `policy_on` raises."""
        noise: Any = {"use_sde": True, "log_std": config.log_std_init} if config.use_sde else {}
        make = partial(policy_for, state_dependent_std=True, **noise)
        policy = parts.policy_on("sac", backbone, facts, GaussianPolicy, make)
        config.look_at_noise_of(policy)
        return cls(policy, parts.critics_for(config, facts, policy, config.n_quantiles), config.optimizer(), config)

    before_update, value = parts.when_policy_is_due, parts.value_of_policy

    def update(self, batch: Transition) -> Update:
        """One step of the critics, and of the rest if it is due; `per_sample` holds their mean TD errors `(B,)`."""
        config, policy, is_due = self.config, self.policy, self.phase is not False
        bounds, ent_coef = policy.bounds, self.log_ent_coef.detach().exp()
        metrics = {"ent_coef": ent_coef.squeeze()}
        if is_due:
            action, log_prob = policy.relative_sample(policy(batch.observation)[0])  # (B, d), (B,)
            metrics["entropy"] = -log_prob.detach().mean()
            if self.ent_coef_step is not None:
                loss = -(self.log_ent_coef * (log_prob.detach() + self.target_entropy)).mean()
                self.ent_coef_step(loss, batch.clock)
                metrics["ent_coef_loss"] = loss.detach()

        with torch.no_grad():
            next_action, next_log_prob = policy.relative_sample(policy(batch.next_observation)[0])
        recorded_action = bounds.relative(bounds.flat(batch.action))  # (B, d)
        values, next_values = parts.values_with_next(self.critics, self.target, batch, recorded_action, next_action)
        y = self.backed_up(batch, next_values, ent_coef * next_log_prob)  # (B,), or (B, K) quantiles
        if config.n_quantiles is None:
            error = values - y  # (n, B)
            critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        else:
            error = quantile_huber_loss(values, y) / config.n_quantiles  # (n, B)
            critic_loss = (batch.weight * error).mean()
        norm = self.critics_step(critic_loss, batch.clock)
        metrics["critic_loss"] = critic_loss.detach()

        if is_due:
            values = self.critics(batch.observation, action)
            if config.n_quantiles is not None:
                value = values.mean((0, 2))
            else:
                value = values.amin(0) if config.target_subset is None else values.mean(0)
            actor_loss = (ent_coef * log_prob - value).mean()
            norm = self.policy_step(actor_loss, batch.clock)
            metrics |= {"actor_loss": actor_loss.detach(), "q_value": value.detach().mean()}
        if self.target is not None:
            self.target.follow()
        return Update(metrics | {"grad_norm": norm}, per_sample=error.detach().mean(0))

    def backed_up(self, batch: Transition, next_values: Tensor, entropy_cost: Tensor) -> Tensor:
        """y `(B,)`, or its quantiles `(B, K)`, from the values of the next actions by each critic."""
        if self.config.n_quantiles is None:
            next_value = smallest(next_values, self.config.target_subset) - entropy_cost
        else:
            drop = self.config.top_quantiles_to_drop_per_net
            next_value = without_highest(next_values, drop) - entropy_cost[:, None]
        return td_target(batch.reward, batch.discount, batch.terminated, next_value)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: Pendulum, two layers of 16."""
        sizes: Any = {"buffer_size": 500, "batch_size": 16, "net_arch": (16, 16)}
        config = SACConfig(learning_rate=3e-3, learning_starts=64, **sizes)
        return RECIPE.tiny(cls, config, seed, env="Pendulum-v1")


RECIPE = Recipe(
    "sac",
    SAC,
    SACConfig,
    on_replay,
    "soft actor-critic (Haarnoja et al. 2018), real-valued actions",
    steps=100_000,
    presets=presets.SAC_PRESETS,
    sb3=Counterpart("SAC"),
)
TQC = replace(
    RECIPE,
    name="tqc",
    summary="sac with truncated quantiles of the return as critics (Kuznetsov et al. 2020)",
    presets=presets.TQC_PRESETS,
    sb3=Counterpart("TQC"),
)
_DROQ = "sac with dropout and layer normalization in its critics, many updates (Hiraoka et al. 2022)"
DROQ = replace(RECIPE, name="droq", summary=_DROQ, presets=presets.DROQ_PRESETS)
_CROSSQ = "sac without target networks, with batch renormalization in its critics (Bhatt et al. 2024)"
CROSSQ = replace(
    RECIPE,
    name="crossq",
    summary=_CROSSQ,
    presets=presets.CROSSQ_PRESETS,
    sb3=Counterpart("CrossQ", presets.CROSSQ_BUILT_IN),
)
