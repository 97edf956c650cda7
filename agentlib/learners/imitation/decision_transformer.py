"""The decision transformer: which return is wanted decides what is imitated (Chen et al. 2021, arXiv:2106.01345).

    R_t = r_t + r_{t+1} + ...
    L = E[ -log pi(a_t | R_{t-K+1}, o_{t-K+1}, a_{t-K+1}, ..., R_t, o_t) ]

Behavioural cloning of all episodes, the bad ones too, by a network that also reads what came of them. Asked for a high
return it does what led to high returns. While acting, R goes down by each reward: tell it by `agent.rewarded(reward)`,
or it goes down by the mean reward of the data. `agent.backbone.target_return` is what is asked for.

The network is `ReturnConditioned`, under any policy that gives a distribution. The paper has a squared error for
real-valued actions, here it is the likelihood; as there, the action at a step's own place is hidden from it, and
stretches that are shorter than K are padded on the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.backbones import MLP, ReturnConditioned, Schedule, adamw
from agentlib.data import Demonstration, Demonstrations, ReturnBatches
from agentlib.data.demonstration_batches import Labelled
from agentlib.policies import CategoricalPolicy
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


@dataclass(frozen=True, kw_only=True)
class DecisionTransformerConfig:
    """All numbers of a decision transformer's run; the defaults are the paper's for control from vectors."""

    learning_rate: Schedule = 1e-4
    """Step size of AdamW; a number or a schedule."""
    weight_decay: float = 1e-4
    """Decay of the matrices."""
    batch_size: int = 64
    """Stretches per update."""
    context_length: int = 20
    """K: steps that are read, the present one among them."""
    embed_dim: int = 128
    """Width of the tokens."""
    n_layers: int = 3
    """Layers of the transformer."""
    n_heads: int = 1
    """Heads of each attention."""
    dropout: float = 0.1
    """Of embeddings, attention weights and branches."""
    max_grad_norm: float | None = 0.25
    """Gradients are cut to this norm; None leaves them."""
    updates: int = 10_000
    """Length of the run, if its steps are not given."""
    target_return: float | None = None
    """What is asked for; the highest return of the data if it is not given."""
    return_scale: float | None = None
    """Returns are divided by this; the largest return of the data, in size, if it is not given."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the layers before the transformer; none by default."""
    normalize: bool = False
    """Standardize observations by the statistics of the data, which travel with the agent."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "context_length", "embed_dim", "n_layers", "n_heads", "updates")
        check_range(self, 0, math.inf, "learning_rate", "weight_decay", "max_grad_norm")
        check_range(self, 0, 1, "dropout")


class DecisionTransformer(Learner):
    """Cloning that is told the return.

    Args:
        policy: a distribution over actions, on a `ReturnConditioned` backbone.
        optimizer: a rule such as `adamw(learning_rate=1e-4)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has another backbone, or gives no distribution.
    """

    def __init__(
        self,
        policy: nn.Module,
        optimizer: Optimizer,
        config: DecisionTransformerConfig = DecisionTransformerConfig(),
    ) -> None:
        super().__init__()
        if not isinstance(policy.backbone, ReturnConditioned) or not hasattr(policy, "log_prob"):
            raise ValueError("a decision transformer is a policy with `log_prob` over a ReturnConditioned backbone")
        self.policy: Any = policy
        self.config = config
        self.step = Step(policy, optimizer, config.max_grad_norm)

    def update(self, batch: Labelled) -> Update:
        """One step on the likelihood of what was done."""
        output, _ = self.policy(batch.observation, None, batch.episode_start)  # (B, T, n)
        log_prob: Tensor = self.policy.log_prob(output, batch.action)  # (B, T)
        loss = -(batch.weight * log_prob).sum() / batch.weight.sum()
        norm = self.step(loss, batch.clock)
        likelihood = (batch.weight * log_prob.detach().exp()).sum() / batch.weight.sum()
        return Update({"loss": loss.detach(), "prob_true_act": likelihood, "grad_norm": norm})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, ReturnBatches]:
        """The smallest honest run: episodes in which one of two actions pays, by the sign of what is seen."""
        from gymnasium import spaces

        generator = np.random.default_rng(0)  # the data are given: the seed is of weights and draws
        data = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
        for _ in range(20):
            seen, skill = generator.uniform(-1, 1, (7, 2)), generator.random()
            right = (seen[:6, 0] > 0).astype(np.int64)
            done = np.where(generator.random(6) < skill, right, 1 - right)
            data.append(Demonstration(seen, done, (done == right).astype(float)))
        config = DecisionTransformerConfig(context_length=3, embed_dim=16, n_layers=1, n_heads=2, dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            backbone = ReturnConditioned(MLP(2, ()), 2, dim=16, layers=1, heads=2, context=3, dropout=0.0)
            policy = CategoricalPolicy(backbone, 2)
        return cls(policy, adamw(3e-3), config), ReturnBatches(data, context=3, batch_size=16, seed=seed)
