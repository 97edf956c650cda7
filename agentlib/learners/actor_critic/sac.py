"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905).

    y = r + gamma (1 - terminated) [ min_i Q'_i(s', a') - alpha log pi(a' | s') ],    a' ~ pi(. | s')
    L_Q = 1/2 sum_i E[ w (Q_i(s, a) - y)^2 ]
    L_pi = E[ alpha log pi(a | s) - min_i Q_i(s, a) ],    a ~ pi(. | s)
    L_alpha = -log alpha E[ log pi(a | s) + H ],    H = -dim(a)

a = tanh(u) with a normally distributed u, drawn so that gradients flow through it; log pi is computed from u, and is
exact at the bounds, where Stable-Baselines3 adds 1e-6 inside the logarithm. Q' follows Q by the share tau at each
update. Names, defaults and the order of things (temperature, critics, policy, targets) are Stable-Baselines3's. With
`target_subset` of many critics, this is REDQ (Chen et al. 2021, arXiv:2101.05982). With `n_quantiles` each critic gives
quantiles of the return, the target are those of all critics but the highest, and the policy raises their mean: TQC
(Kuznetsov et al. 2020, arXiv:2005.04269), trained as "tqc". With `use_sde` (gSDE) each action of a batch has noise of
its own, where SB3 draws one for the whole batch: the distributions are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.core import Counterpart, Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, NonNegative, Range, Whole
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_replay
from agentlib.learners.actor_critic.presets import SAC_PRESETS, TQC_PRESETS
from agentlib.learners.actor_critic.settings import OffPolicy, StateDependentNoise, require_bounded
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import Critics, GaussianPolicy, policy_for
from agentlib.policies.base import is_policy, require_no_memory
from agentlib.policies.critics import smallest
from agentlib.policies.value_losses import quantile_huber_loss


def without_highest(quantiles: Tensor, drop: int) -> Tensor:
    """The quantiles `(B, K)` of all critics `(n, B, m)` in their order, without the n `drop` highest."""
    pooled = quantiles.transpose(0, 1).flatten(1).sort(1).values  # (B, n m)
    return pooled[:, : pooled.shape[1] - len(quantiles) * drop]


@dataclass(frozen=True, kw_only=True)
class SACConfig(OffPolicy, StateDependentNoise):
    """The numbers of a SAC run; names and defaults are those of Stable-Baselines3."""

    ent_coef: NonNegative | Literal["auto"] = "auto"
    """Weight alpha of the entropy; "auto" learns it."""
    initial_ent_coef: Annotated[float, Range(1e-8)] = 1.0
    """Weight of the entropy at the start, where it is learned."""
    target_entropy: float | Literal["auto"] = "auto"
    """Entropy that a learned weight aims at, of actions between -1 and 1; "auto" is minus their number."""
    log_std_init: float = -3.0
    """Logarithm of the standard deviation of the noise of `use_sde` at the start."""
    target_subset: Count | None = None
    """Number of critics, chosen at random, of which the smallest value is the target (REDQ); None takes all."""
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
        require_no_memory(policy, "sac")
        require_bounded("sac", policy.action_space)
        if not policy.squashed:
            raise ValueError("sac needs a policy whose actions are squashed: GaussianPolicy(..., squashed=True)")
        self.config, self.policy, self.critics = config, policy, critics
        self.target = Target(critics, tau=config.tau)
        self.policy_step = Step(policy, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)
        is_learned = config.ent_coef == "auto"
        first = config.initial_ent_coef if config.ent_coef == "auto" else config.ent_coef
        log_ent_coef = torch.tensor([math.log(first) if first > 0.0 else -math.inf], dtype=torch.float32)
        self.log_ent_coef = nn.Parameter(log_ent_coef, requires_grad=is_learned)
        self.ent_coef_step = Step(self.log_ent_coef, optimizer) if is_learned else None
        given = config.target_entropy
        self.target_entropy = -float(policy.bounds.size) if given == "auto" else given

    @classmethod
    def build(cls, backbone: nn.Module, config: SACConfig, facts: ControlFacts) -> Self:
        """A SAC on a backbone for its policy, or of an agent's policy, with new critics.

        Raises:
            ValueError: actions without finite bounds, or another kind of policy.
        """
        actions = require_bounded("sac", facts.action_space)
        require_no_memory(backbone, "sac")
        if not is_policy(backbone):
            shape: Any = {"use_sde": True, "log_std": config.log_std_init} if config.use_sde else {}
            backbone = policy_for(actions, backbone, squashed=True, state_dependent_std=True, **shape)
        if not isinstance(backbone, GaussianPolicy):
            raise ValueError(
                f"sac goes on from an agent with normally distributed actions, not {type(backbone).__name__}"
            )
        critics = Critics.for_spaces(
            facts.observation_space, actions, config.n_critics, config.net_arch, config.n_quantiles
        )
        return cls(backbone, critics, config.optimizer(), config)

    def value(self, observation: Any) -> Tensor:
        """The values `(B,)` of the policy's best actions."""
        return self.critics.of_policy(self.policy, observation)

    def update(self, batch: Transition) -> Update:
        """One step of each part; `per_sample` holds the mean TD errors of the critics `(B,)`."""
        config, policy, ent_coef = self.config, self.policy, self.log_ent_coef.detach().exp()
        bounds = policy.bounds
        action, log_prob = policy.relative_sample(policy(batch.observation)[0])  # (B, d), (B,)
        metrics = {"ent_coef": ent_coef.squeeze(), "entropy": -log_prob.detach().mean()}
        if self.ent_coef_step is not None:
            loss = -(self.log_ent_coef * (log_prob.detach() + self.target_entropy)).mean()
            self.ent_coef_step(loss, batch.clock)
            metrics["ent_coef_loss"] = loss.detach()

        with torch.no_grad():
            next_action, next_log_prob = policy.relative_sample(policy(batch.next_observation)[0])
            y = self.target_values(batch, next_action, ent_coef * next_log_prob)  # (B,), or (B, K) quantiles
        values = self.critics(batch.observation, bounds.relative(bounds.flat(batch.action)))  # (n, B), or (n, B, m)
        if config.n_quantiles is None:
            error = values - y  # (n, B)
            critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        else:
            error = quantile_huber_loss(values, y) / config.n_quantiles  # (n, B)
            critic_loss = (batch.weight * error).mean()
        self.critics_step(critic_loss, batch.clock)

        values = self.critics(batch.observation, action)
        if config.n_quantiles is not None:
            value = values.mean((0, 2))
        else:
            value = values.amin(0) if config.target_subset is None else values.mean(0)
        actor_loss = (ent_coef * log_prob - value).mean()
        norm = self.policy_step(actor_loss, batch.clock)
        self.target.follow()
        metrics |= {"actor_loss": actor_loss.detach(), "critic_loss": critic_loss.detach(), "grad_norm": norm}
        return Update(metrics | {"q_value": value.detach().mean()}, per_sample=error.detach().mean(0))

    def target_values(self, batch: Transition, next_action: Tensor, entropy_cost: Tensor) -> Tensor:
        """y `(B,)`, or its quantiles `(B, K)`."""
        values = self.target(batch.next_observation, next_action)
        if self.config.n_quantiles is None:
            next_value = smallest(values, self.config.target_subset) - entropy_cost
        else:
            next_value = without_highest(values, self.config.top_quantiles_to_drop_per_net) - entropy_cost[:, None]
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
    presets=SAC_PRESETS,
    sb3=Counterpart("SAC"),
)
TQC = replace(
    RECIPE,
    name="tqc",
    summary="sac with truncated quantiles of the return as critics (Kuznetsov et al. 2020)",
    presets=TQC_PRESETS,
    sb3=Counterpart("TQC"),
)
