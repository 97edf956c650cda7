"""Q-learning with a table (Watkins 1989), from transitions that are replayed (Lin 1992).

    Q(s, a) <- Q(s, a) + alpha mean[ r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a) ]

The mean is over the transitions of (s, a) in the batch, so that alpha = 1 is the largest that makes sense. With
`buffer_size=1`, `batch_size=1`, `train_freq=1` and `learning_starts=0` each transition is learned from once, when it
happens: the algorithm of Watkins. The table is a linear layer on one feature for each observation, its loss half the
squared error, and the maximum is over legal actions. Values start at 0.

With alpha falling to 0, and transitions that are kept, the table ends near the values that are right for the
transitions seen (Sutton and Barto 2018, chapters 6.5 and 8). `agentlib.learners.q_learning.tabular` has dynamic
programming, for environments whose probabilities are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from gymnasium import spaces
from torch import nn

from agentlib.backbones import Table, sgd
from agentlib.core import Learner, Linear, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Share, Unit
from agentlib.core.step import Rule
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_table
from agentlib.learners.q_learning.dqn import td_target
from agentlib.learners.q_learning.presets import Q_TABLE_PRESETS
from agentlib.learners.q_learning.settings import Exploring
from agentlib.policies import QPolicy
from agentlib.policies.base import is_policy


@dataclass(frozen=True, kw_only=True)
class QTableConfig(Exploring):
    """The numbers of Q-learning with a table."""

    learning_rate: Share = Linear(0.5, 0.0)
    """Share of its error by which a value changes: a number or a schedule."""
    gamma: Unit = 0.99
    """Discount factor per environment step."""
    batch_size: Count = 64
    """Transitions per update."""
    max_grad_norm: NonNegative | None = None
    """Clip gradients to this global norm; None disables clipping."""
    buffer_size: Count = 1_000_000
    """Transitions that are kept to learn from again."""
    exploration_fraction: Unit = 0.5
    """Share of the run over which epsilon, the probability of a random action, falls linearly."""

    def optimizer(self) -> Rule:
        return sgd(self.learning_rate)


class QTable(Learner):
    """Q-learning with a table.

    Args:
        policy: action values, linear on a `Table`.
        optimizer: `sgd(alpha)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: another policy.
    """

    def __init__(self, policy: QPolicy, optimizer: Optimizer, config: QTableConfig = QTableConfig()) -> None:
        super().__init__()
        if not (isinstance(policy, QPolicy) and isinstance(policy.backbone, Table) and type(policy.head) is nn.Linear):
            raise ValueError("q_table learns a table of values, and goes on from no other agent")
        policy.head.bias.requires_grad_(False)
        self.config, self.policy = config, policy
        self.step = Step(policy, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: QTableConfig, facts: ControlFacts) -> Self:
        """A table of zeros over the features of a `Table`, or the policy of an agent.

        Raises:
            ValueError: an action space that is not Discrete, or another policy.
        """
        if not isinstance(facts.action_space, spaces.Discrete):
            raise ValueError(f"q_table needs a Discrete action space, not {facts.action_space}")
        if not is_policy(backbone):
            backbone = QPolicy(backbone, int(facts.action_space.n))
            for parameter in backbone.head.parameters():
                nn.init.zeros_(parameter)
        return cls(backbone, config.optimizer(), config)  # type: ignore[arg-type]

    def update(self, batch: Transition) -> Update:
        """One step on the errors, which `per_sample` holds `(B,)`."""
        policy = self.policy
        values, _ = policy(batch.observation)  # (B, A)
        with torch.no_grad():
            next_values, _ = policy(batch.next_observation)
            best = policy.choose(next_values, batch.next_mask)  # (B,)
            y = td_target(batch.reward, batch.discount, batch.terminated, policy.pick(next_values, best))
            entry = policy.backbone.index(batch.observation) * values.shape[1] + batch.action  # type: ignore[operator]
            share = 1.0 / (entry[:, None] == entry).sum(1)  # (B,)
        error = policy.pick(values, batch.action) - y
        loss = 0.5 * (share * error.square()).sum()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "q_value": (error.detach() + y).mean(), "grad_norm": norm}
        return Update(metrics, per_sample=error.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: a walk along a cliff."""
        return RECIPE.tiny(cls, QTableConfig(learning_starts=64, buffer_size=500), seed, env="CliffWalking-v1")


RECIPE = Recipe(
    "q_table",
    QTable,
    QTableConfig,
    on_table,
    "Q-learning with a table (Watkins 1989), observations and actions that can be counted",
    steps=100_000,
    presets=Q_TABLE_PRESETS,
)
