"""Soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207).

    V'(s') = sum_a pi(a | s') [ min_i Q'_i(s', a) - alpha log pi(a | s') ],    y = r + gamma (1 - terminated) V'(s')
    L_Q = 1/2 sum_i E[ w (Q_i(s, a) - y)^2 ]
    L_pi = E[ sum_a pi(a | s) (alpha log pi(a | s) - min_i Q_i(s, a)) ]
    L_alpha = log alpha E[ entropy of pi(. | s) - H ],    H = 0.98 log(number of legal actions)

The critics give the values of all actions at once, so that expectations are sums in place of samples. Names, defaults
and the order of things are those of `sac`. Illegal actions have no probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.choice import backbone_for
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.spaces import without_mask
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_replay
from agentlib.learners.actor_critic.settings import Entropic, Hindsight, OffPolicy
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import CategoricalPolicy, QPolicy
from agentlib.policies.base import is_policy, require_no_memory
from agentlib.policies.critics import DiscreteCritics

ILLEGAL = -1e9
"""The logit of an illegal action: finite, so that its share of a sum is 0."""


@dataclass(frozen=True, kw_only=True)
class DiscreteSACConfig(Entropic, Hindsight, OffPolicy):
    """The numbers of a run of discrete SAC; names and defaults are those of SAC."""

    target_entropy: float | Literal["auto"] = "auto"
    """Entropy in nats that a learned weight aims at; "auto" is 0.98 of that of uniformly random legal actions."""


class DiscreteSAC(Learner):
    """Soft actor-critic for discrete actions.

    Args:
        policy: a distribution over the actions.
        critics: values of all actions.
        optimizer: a rule such as `adam(learning_rate=3e-4)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has memory.
    """

    def __init__(
        self,
        policy: CategoricalPolicy,
        critics: DiscreteCritics,
        optimizer: Optimizer,
        config: DiscreteSACConfig = DiscreteSACConfig(),
    ) -> None:
        super().__init__()
        require_no_memory(policy, "discrete_sac")
        self.config, self.policy, self.critics = config, policy, critics
        self.target = Target(critics, tau=config.tau)
        self.policy_step = Step(policy, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)
        self.log_ent_coef = config.log_ent_coef()
        self.ent_coef_step = Step(self.log_ent_coef, optimizer) if self.log_ent_coef.requires_grad else None
        given = config.target_entropy
        self.target_entropy: Any = 0.98 * math.log(policy.n_actions) if given == "auto" else given

    @classmethod
    def build(cls, backbone: nn.Module, config: DiscreteSACConfig, facts: ControlFacts) -> Self:
        """On a backbone for its policy, or of an agent's policy, with new critics.

        Raises:
            ValueError: an action space that is not Discrete, or another kind of policy.
        """
        actions = facts.action_space
        if not isinstance(actions, spaces.Discrete):
            others = "sac, td3, ppo" if isinstance(actions, spaces.Box) else "ppo, a2c"
            raise ValueError(f"discrete_sac needs a Discrete action space, and this environment has {actions}. "
                             f"Learners that fit: {others}")  # fmt: skip
        n, seen = int(actions.n), without_mask(*facts)
        policy = backbone if is_policy(backbone) else CategoricalPolicy(backbone, n)
        if not isinstance(policy, CategoricalPolicy):
            found = type(policy).__name__
            raise ValueError(f"discrete_sac goes on from an agent with probabilities of actions, not {found}")
        networks = [QPolicy(backbone_for(seen, "auto", config.net_arch), n) for _ in range(config.n_critics)]
        return cls(policy, DiscreteCritics(networks), config.optimizer(), config)

    def value(self, observation: Any, mask: Tensor | None = None) -> Tensor:
        """The values `(B,)` of the likeliest actions, among the legal ones if a mask `(B, A)` is given."""
        likeliest = self.policy.choose(self.policy(observation)[0], mask)  # (B,)
        values: Tensor = self.critics(observation).amin(0)  # (B, A)
        return values.gather(1, likeliest[:, None]).squeeze(1)

    def chances(self, observation: Any, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """pi(. | s) and its logarithm, each `(B, A)`."""
        logits = self.policy(observation)[0]
        log_pi = (logits if mask is None else logits.masked_fill(~mask, ILLEGAL)).log_softmax(-1)
        return log_pi.exp(), log_pi

    def update(self, batch: Transition) -> Update:
        """One step of each part; `per_sample` holds the mean TD errors of the critics `(B,)`."""
        ent_coef = self.log_ent_coef.detach().exp()
        pi, log_pi = self.chances(batch.observation, batch.mask)  # (B, A)
        entropy = -(pi * log_pi).sum(1)  # (B,)
        metrics = {"ent_coef": ent_coef.squeeze(), "entropy": entropy.detach().mean()}
        if self.ent_coef_step is not None:
            target = self.target_entropy
            if batch.mask is not None and self.config.target_entropy == "auto":
                target = 0.98 * batch.mask.sum(1).log()  # (B,)
            loss = (self.log_ent_coef * (entropy.detach() - target)).mean()
            self.ent_coef_step(loss, batch.clock)
            metrics["ent_coef_loss"] = loss.detach()

        with torch.no_grad():
            next_pi, next_log_pi = self.chances(batch.next_observation, batch.next_mask)
            soft = self.target(batch.next_observation).amin(0) - ent_coef * next_log_pi  # (B, A)
            y = td_target(batch.reward, batch.discount, batch.terminated, (next_pi * soft).sum(1))
        values = self.critics(batch.observation)  # (n, B, A)
        chosen = batch.action.expand(len(values), -1)[..., None]  # (n, B, 1)
        error = values.gather(2, chosen).squeeze(2) - y  # (n, B)
        critic_loss = 0.5 * (batch.weight * error.square()).mean(1).sum()
        self.critics_step(critic_loss, batch.clock)

        with torch.no_grad():
            value = self.critics(batch.observation).amin(0)  # (B, A)
        actor_loss = (pi * (ent_coef * log_pi - value)).sum(1).mean()
        norm = self.policy_step(actor_loss, batch.clock)
        self.target.follow()
        metrics |= {"actor_loss": actor_loss.detach(), "critic_loss": critic_loss.detach(), "grad_norm": norm}
        return Update(metrics | {"q_value": (pi.detach() * value).sum(1).mean()}, error.detach().mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: CartPole, two layers of 16."""
        sizes: Any = {"buffer_size": 500, "batch_size": 16, "net_arch": (16, 16)}
        config = DiscreteSACConfig(learning_rate=3e-3, learning_starts=64, **sizes)
        return RECIPE.tiny(cls, config, seed, env="CartPole-v1")


RECIPE = Recipe(
    "discrete_sac",
    DiscreteSAC,
    DiscreteSACConfig,
    on_replay,
    "soft actor-critic for discrete actions (Christodoulou 2019)",
    steps=100_000,
)
