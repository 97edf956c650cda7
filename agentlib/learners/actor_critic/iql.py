"""Implicit Q-learning from recorded transitions (Kostrikov et al. 2022, arXiv:2110.06169).

    L_V = E[ |tau - 1(u < 0)| u^2 ],    u = min_i Q'_i(s, a) - V(s)
    L_Q = sum_i E[ (Q_i(s, a) - r - gamma (1 - terminated) V(s'))^2 ]
    L_pi = -E[ min(exp(beta u), 100) log pi(a | s) ]

V is the expectile tau of the values of actions that were recorded: near 1, that of the best of them. No action is ever
asked about that is not in the data, so values cannot run away where there are none. Q' follows Q. The order of things
(value, policy, critics, target) is the authors'; their policy's mean is squashed by tanh, ours is cut to the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import Optimized
from agentlib.backbones.choice import backbone_for
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, NonNegative, Range, Rate, Unit
from agentlib.experience import Demonstration, Demonstrations, Transition
from agentlib.families.demonstrations import DemonstrationFacts, on_transitions
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import Critics, GaussianPolicy, StochasticPolicy, policy_for
from agentlib.policies.base import is_policy, require_no_memory


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """|tau - 1(u < 0)| u^2 for each difference u: on average it is smallest at the expectile tau."""
    weight = (expectile - (difference < 0.0).to(difference.dtype)).abs()
    return weight * difference.square()


@dataclass(frozen=True, kw_only=True)
class IQLConfig(Optimized):
    """The numbers of an IQL run; defaults are the paper's for locomotion."""

    learning_rate: Rate = 3e-4
    gamma: Unit = 0.99
    """Discount factor per step."""
    batch_size: Count = 256
    """Transitions per update."""
    tau: Unit = 0.005
    """Share of the way that the target of the critics moves at each update."""
    expectile: Annotated[float, Range(0.5, 1.0)] = 0.7
    """Expectile of the recorded actions' values that is a state's value; towards 1, the best action's value."""
    beta: NonNegative = 3.0
    """How much better actions count for more in the policy; 0 is behavioural cloning."""
    largest_weight: NonNegative = 100.0
    """Largest weight of an action in the policy's loss."""
    n_critics: Count = 2
    """Number of critics, of which the smallest value counts."""
    net_arch: tuple[int, ...] | None = (256, 256)
    """Widths of the hidden layers of the policy, the value and each critic."""
    normalize: bool = False
    """Standardize the policy's observations by their statistics, which are saved with the agent."""


class IQL(Learner):
    """Implicit Q-learning.

    Args:
        policy: a distribution over actions of any kind.
        value: a network of observations with one output.
        critics: values of observations and actions.
        optimizer: a rule such as `adam(learning_rate=3e-4)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has memory.
    """

    def __init__(
        self,
        policy: StochasticPolicy,
        value: nn.Module,
        critics: Critics,
        optimizer: Optimizer,
        config: IQLConfig = IQLConfig(),
    ) -> None:
        super().__init__()
        require_no_memory(policy, "iql")
        self.config, self.policy, self.value, self.critics = config, policy, value, critics
        self.target = Target(critics, tau=config.tau)
        self.policy_step = Step(policy, optimizer, config.max_grad_norm)
        self.value_step = Step(value, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: IQLConfig, facts: DemonstrationFacts) -> Self:
        """On a backbone for the policy, or of a policy that is one already, with new values."""
        require_no_memory(backbone, "iql")
        policy: Any = backbone if is_policy(backbone) else policy_for(facts.action_space, backbone)
        network: Any = backbone_for(facts.observation_space, "auto", config.net_arch)
        value = nn.Sequential(network, nn.Linear(network.feature_dim, 1), nn.Flatten(0))
        critics = Critics.for_spaces(facts.observation_space, facts.action_space, config.n_critics, config.net_arch)
        return cls(policy, value, critics, config.optimizer(), config)

    def update(self, batch: Transition) -> Update:
        """One step of each part; `per_sample` holds the mean errors of the critics `(B,)`."""
        config, policy = self.config, self.policy
        action = batch.action
        if isinstance(policy, GaussianPolicy):
            action = policy.bounds.relative(policy.bounds.flat(action))  # (B, d)
        with torch.no_grad():
            recorded_value = self.target(batch.observation, action).amin(0)  # (B,)
        value_loss = expectile_loss(recorded_value - self.value(batch.observation), config.expectile).mean()
        self.value_step(value_loss, batch.clock)

        with torch.no_grad():
            advantage = recorded_value - self.value(batch.observation)
            weight = (config.beta * advantage).exp().clamp_max(config.largest_weight)
            y = td_target(batch.reward, batch.discount, batch.terminated, self.value(batch.next_observation))
        actor_loss = -(weight * policy.log_prob(policy(batch.observation)[0], batch.action)).mean()
        norm = self.policy_step(actor_loss, batch.clock)

        error = self.critics(batch.observation, action) - y  # (n, B)
        critic_loss = error.square().mean(1).sum()
        self.critics_step(critic_loss, batch.clock)
        self.target.follow()
        losses = {"value_loss": value_loss, "actor_loss": actor_loss, "critic_loss": critic_loss}
        metrics = {name: loss.detach() for name, loss in losses.items()}
        return Update(metrics | {"advantage": advantage.mean(), "grad_norm": norm}, error.detach().mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: one step, in which the sign of the observation is the better action."""
        generator = np.random.default_rng(0)  # the demonstrations are given: the seed is of weights and order
        demonstrations = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
        for _ in range(40):
            points, action = generator.uniform(-1, 1, (2, 2)), generator.integers(2, size=1)
            reward = np.array([float(action[0] == (points[0, 0] > 0))])
            demonstrations.append(Demonstration(points, action, reward, terminated=True))
        config = IQLConfig(learning_rate=3e-3, batch_size=16, net_arch=(16, 16))
        return RECIPE.tiny(cls, config, seed, demos=demonstrations)


RECIPE = Recipe(
    "iql",
    IQL,
    IQLConfig,
    on_transitions,
    "implicit Q-learning (Kostrikov et al. 2022) from recorded episodes with rewards; any actions",
    steps=20_000,
)
