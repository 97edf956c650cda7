"""The decision transformer: imitation of episodes with a given return (Chen et al. 2021, arXiv:2106.01345).

    R_t = r_t + r_{t+1} + ...
    L = E[ -log pi(a_t | R_{t-K+1}, o_{t-K+1}, a_{t-K+1}, ..., R_t, o_t) ]

Behavioural cloning of all episodes, the bad ones too, by a network that also reads their returns. Asked for a high
return it acts as in episodes with high returns. While acting, R goes down by each reward that `agent.rewarded(reward)`
reports, or else by the mean reward of the data. `agent.backbone.target_return` is the return that is asked for.

The network is `ReturnConditioned`, under any policy that gives a distribution. The paper has a squared error for
real-valued actions, here it is the likelihood; as there, the action at a step's own place is hidden from it, and
stretches that are shorter than K are padded on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import MLP, Optimized, ReturnConditioned, adamw
from agentlib.core import Learner, Optimizer, Recipe, Rule, Step, Update
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.core.randomness import fresh_weights
from agentlib.experience import Demonstration, Demonstrations, Labelled, ReturnBatches
from agentlib.families.demonstrations import DemonstrationFacts, observe_all, on_returns
from agentlib.policies import policy_for
from agentlib.policies.base import is_policy, require_no_memory


@dataclass(frozen=True, kw_only=True)
class DecisionTransformerConfig(Optimized):
    """The numbers of a decision transformer's run; the defaults are the paper's for control from vectors."""

    learning_rate: Rate = 1e-4
    """Learning rate of AdamW: a number or a schedule."""
    weight_decay: NonNegative = 1e-4
    """Weight decay of the matrices."""
    max_grad_norm: NonNegative | None = 0.25
    context_length: Count = 20
    """K, the number of steps that are read, the present one among them."""
    embed_dim: Count = 128
    """Width of the tokens."""
    n_layers: Count = 3
    """Number of layers of the transformer."""
    n_heads: Count = 1
    """Number of heads of each attention."""
    dropout: Unit = 0.1
    """Dropout rate of embeddings, attention weights and branches."""
    target_return: float | None = None
    """Return that is asked for while acting; the default is the highest one of the data."""
    return_scale: float | None = None
    """Divisor of the returns that are read; the default is the largest absolute return of the data."""
    net_arch: tuple[int, ...] | None = ()
    """Widths of the encoder's hidden layers, before the transformer."""
    normalize: bool = False
    """Standardize vectors by running statistics of the observations, which are saved with the agent."""

    optimizer_name: Literal["adam", "adamw", "rmsprop", "sgd", "adagrad", "lars"] = "adamw"

    def optimizer(self) -> Rule:
        is_usual = self.optimizer_name == "adamw"
        return adamw(self.learning_rate, weight_decay=self.weight_decay) if is_usual else super().optimizer()


class DecisionTransformer(Learner):
    """Cloning that reads the return, by a distribution over actions on a `ReturnConditioned` backbone.

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
            raise ValueError("a decision transformer is a policy with `log_prob` over a ReturnConditioned backbone: "
                             "give such a policy, or an agent of a run of decision_transformer")  # fmt: skip
        self.policy: Any = policy
        self.config = config
        self.step = Step(policy, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DecisionTransformerConfig, facts: DemonstrationFacts) -> Self:
        """On an encoder of single observations, or a `ReturnConditioned` network; or of a policy that is one already.

        Raises:
            ValueError: an encoder with memory.
        """
        done, demonstrations, policy = facts.action_space, facts.demonstrations, backbone
        if not is_policy(policy):
            if not isinstance(backbone, ReturnConditioned):
                require_no_memory(backbone, "the encoder of a decision transformer")
                returns, target, scale = demonstrations.returns, config.target_return, config.return_scale
                backbone = ReturnConditioned(
                    backbone,
                    int(done.n) if isinstance(done, spaces.Discrete) else tuple(done.shape or ()),
                    dim=config.embed_dim,
                    layers=config.n_layers,
                    heads=config.n_heads,
                    context=config.context_length,
                    max_timestep=int(demonstrations.lengths.max()),
                    dropout=config.dropout,
                    target_return=float(returns.max()) if target is None else target,
                    return_scale=float(abs(returns).max()) or 1.0 if scale is None else scale,
                    expected_reward=float(returns.sum() / demonstrations.steps),
                )
            policy = policy_for(done, backbone)
        observe_all(policy, demonstrations)
        return cls(policy, config.optimizer(), config)

    def update(self, batch: Labelled) -> Update:
        """One step on the likelihood of the actions."""
        output, _ = self.policy(batch.observation, None, batch.episode_start)  # (B, T, n)
        log_prob: Tensor = self.policy.log_prob(output, batch.action)  # (B, T)
        loss = -(batch.weight * log_prob).sum() / batch.weight.sum()
        norm = self.step(loss, batch.clock)
        likelihood = (batch.weight * log_prob.detach().exp()).sum() / batch.weight.sum()
        return Update({"loss": loss.detach(), "prob_true_act": likelihood, "grad_norm": norm})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, ReturnBatches]:
        """The smallest honest run: episodes in which one of two actions pays, by the sign of what is seen."""
        generator = np.random.default_rng(0)  # the data are given: the seed is of weights and batches
        data = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
        for _ in range(20):
            seen, skill = generator.uniform(-1, 1, (7, 2)), generator.random()
            right = (seen[:6, 0] > 0).astype(np.int64)
            done = np.where(generator.random(6) < skill, right, 1 - right)
            data.append(Demonstration(seen, done, (done == right).astype(float)))
        config = DecisionTransformerConfig(learning_rate=3e-3, weight_decay=1e-2)
        with fresh_weights(seed):
            backbone = ReturnConditioned(MLP(2, ()), 2, dim=16, layers=1, heads=2, context=3, dropout=0.0)
            facts = DemonstrationFacts(data.observation_space, data.action_space, data)
            learner = cls.build(backbone, config, facts)
        return learner, ReturnBatches(data, context=3, batch_size=16, seed=seed)


RECIPE = Recipe(
    "decision_transformer",
    DecisionTransformer,
    DecisionTransformerConfig,
    on_returns,
    "decision transformer (Chen et al. 2021), clones episodes of the return that is asked for; any actions",
    steps=10_000,
)
