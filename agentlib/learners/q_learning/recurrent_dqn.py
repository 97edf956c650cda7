"""Deep Q-learning with memory (Hausknecht & Stone 2015, arXiv:1507.06527; Kapturowski et al. 2019, R2D2).

    G_t = r_t + gamma (1 - terminated) [ V(s_{t+1}) + lambda_{t+1} (G_{t+1} - V(s_{t+1})) ]
    V(s) = Q'(s, argmax_a Q(s, a)),     lambda_t = lambda if a_t is that argmax, else 0        (Watkins 1989, Q(lambda))
    L = E[ huber(Q(s_t, a_t) - G_t) ]

Q and Q' read sequences: first a burn-in, from the state that the actor had there, only to get their states; then the
steps that are learned from. Returns run through a sequence as long as its actions are the greedy ones, which carries
rewards back far quicker than one step at a time. Memory is reset where an episode starts inside a sequence.

R2D2 has n-step returns, priorities and a rescaling of values; here are Q(lambda), uniform draws and `reward_scale`
(1 - gamma keeps values within those of a single reward). Q' follows by `tau`, and with `act_by_average` the agent that
is kept acts by Q', the average of the weights, which swings less than Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.choice import MEMORIES
from agentlib.core import Clock, Learner, Linear, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, NonNegative, Unit, Whole
from agentlib.core.trees import mapped
from agentlib.experience import Sequences
from agentlib.families.control import ControlFacts, on_sequences
from agentlib.learners.q_learning.settings import Bellman, Exploring
from agentlib.policies import QPolicy
from agentlib.policies.base import is_policy
from agentlib.policies.value_losses import LOSSES


def watkins_returns(reward: Tensor, terminated: Tensor, next_value: Tensor, trace: Tensor, gamma: float) -> Tensor:
    """Watkins's Q(lambda), `(B, T)`: G_t = r_t + gamma (1 - terminated) [V_{t+1} + lambda_{t+1} (G_{t+1} - V_{t+1})].

    Args:
        reward: `(B, T)`.
        terminated: `(B, T)`, 1 where the step ended the task.
        next_value: `(B, T)`, V of the observation after each step.
        trace: `(B, T)`, lambda of the step after each; that of the last step is not read, as nothing follows.
        gamma: discount per step.
    """
    total, returns = next_value[:, -1], []  # G of the step after
    for t in reversed(range(reward.shape[1])):
        value = next_value[:, t]
        total = reward[:, t] + gamma * (1.0 - terminated[:, t]) * (value + trace[:, t] * (total - value))
        returns.append(total)
    return torch.stack(returns[::-1], 1)


@dataclass(frozen=True, kw_only=True)
class RecurrentDQNConfig(Exploring, Bellman):
    """The numbers of a recurrent DQN run; names are those of Stable-Baselines3, where it has the field."""

    buffer_size: Count = 100_000
    """Capacity of the replay buffer in frames."""
    learning_starts: Whole = 1_000
    batch_size: Count = 32
    """Sequences per update."""
    sequence_length: Count = 32
    """Steps of a sequence that are learned from."""
    burn_in: Whole = 8
    """Steps before these that only bring the network's state up to date."""
    sequence_period: Count = 8
    """Frames from the start of one sequence to the start of the next."""
    stored_state: bool = True
    """Start sequences from the state that the actor had there; otherwise from that of a new episode."""
    previous_action: bool = True
    """Let the memory also read the action before each observation."""
    trace: Unit = 0.8
    """Trace decay lambda of Watkins's returns; 0 bootstraps after every step."""
    reward_scale: NonNegative = 1.0
    """Factor on all rewards."""
    tau: Unit = 0.01
    target_update_interval: Count = 16
    train_freq: Count = 16
    net_arch: tuple[int, ...] | None = None
    """Widths of the layers before the memory and, as the last number, of the memory; the default is 64 and 64."""
    act_by_average: bool = True
    """Let the resulting agent act by the target network, an average of the weights."""


class RecurrentDQN(Learner):
    """Deep Q-learning on sequences, of action values over a backbone with memory.

    Raises:
        ValueError: the policy has no memory, or gives anything but one value for each action.
    """

    def __init__(
        self, policy: QPolicy, optimizer: Optimizer, config: RecurrentDQNConfig = RecurrentDQNConfig()
    ) -> None:
        super().__init__()
        if not policy.is_sequence:
            raise ValueError(
                "recurrent DQN needs a policy with memory, such as QPolicy(WithMemory(encoder, LSTM(...)))"
            )
        if policy.distributional is not None or policy.is_branched:
            raise ValueError("recurrent DQN learns one value for each action of one choice")
        self.config, self.policy = config, policy
        self.target = Target(policy, every=config.target_update_interval, tau=config.tau)
        self.step = Step(policy, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: RecurrentDQNConfig, facts: ControlFacts) -> Self:
        """A recurrent DQN on a backbone with memory, or of a policy that gives action values over one.

        Raises:
            ValueError: an action space that is not Discrete; a backbone without memory; or another policy.
        """
        actions = facts.action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"recurrent_dqn needs a Discrete action space, this environment has {actions}")
        has_memory = getattr(backbone, "is_sequence", False)
        if is_policy(backbone) and not (isinstance(backbone, QPolicy) and has_memory):
            raise ValueError("recurrent_dqn goes on from an agent with action values and memory, which this one is not")
        if not has_memory:
            raise ValueError(
                f"recurrent_dqn needs a network with memory: {', '.join(MEMORIES)}, or a module of your own such as "
                'WithMemory(encoder, LSTM(...)). Without memory "dqn" learns'
            )
        policy = backbone if isinstance(backbone, QPolicy) else QPolicy(backbone, int(actions.n))
        return cls(policy, config.optimizer(), config)

    @property
    def model(self) -> nn.Module:
        """The policy that the resulting agent acts by."""
        return self.target.network if self.config.act_by_average else self.policy

    def update(self, batch: Sequences) -> Update:
        """One step on the errors of all steps behind the burn-in."""
        burn = self.config.burn_in
        start, action, weight = batch.episode_start, batch.action[:, burn:], batch.weight[:, burn:]  # (B, T)
        with torch.no_grad():
            state = target_state = batch.state
            if burn:
                early = mapped(batch.observation, lambda leaf: leaf[:, :burn])
                _, state = self.policy(early, batch.state, start[:, :burn])
                _, target_state = self.target(early, batch.state, start[:, :burn])
            late = mapped(batch.observation, lambda leaf: leaf[:, burn:])  # (B, T + 1, ...)
            target_values = self.target(late, target_state, start[:, burn:])[0][:, 1:]  # (B, T, A)
        values, _ = self.policy(late, state, start[:, burn:])  # (B, T + 1, A)
        value = self.policy.pick(values[:, :-1], action)  # (B, T)
        with torch.no_grad():
            legal = None if batch.mask is None else batch.mask[:, burn + 1 :]
            best = self.policy.choose(values[:, 1:], legal)  # (B, T)
            next_value = self.policy.pick(target_values, best)
            greedy = (action[:, 1:] == best[:, :-1]) * weight[:, 1:]  # 0 at the end of an episode
            trace = self.config.trace * functional.pad(greedy, (0, 1))
            reward = self.config.reward_scale * batch.reward[:, burn:]
            returns = watkins_returns(reward, batch.terminated[:, burn:], next_value, trace, self.config.gamma)
        losses = LOSSES[self.config.loss](value, returns, reduction="none")
        loss = (weight * losses).sum() / weight.sum()
        norm = self.step(loss, batch.clock)
        mean_value = (weight * value.detach()).sum() / weight.sum()
        return Update({"loss": loss.detach(), "q_value": mean_value, "grad_norm": norm})

    def before_update(self, clock: Clock) -> None:
        """The target network follows, every `target_update_interval` environment steps."""
        self.target.follow_when_due(clock)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: CartPole without velocities, an LSTM of 8, sequences of 4 steps."""
        epsilon: Any = {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2}
        times: Any = {"learning_starts": 64, "train_freq": 4, "target_update_interval": 400}
        lengths: Any = {"sequence_length": 4, "burn_in": 1, "sequence_period": 2}
        config = RecurrentDQNConfig(buffer_size=500, batch_size=16, net_arch=(8,), **times, **lengths, **epsilon)
        return RECIPE.tiny(cls, config, seed, env="agentlib/CartPoleNoVel-v0")


RECIPE = Recipe(
    "recurrent_dqn",
    RecurrentDQN,
    RecurrentDQNConfig,
    on_sequences,
    "deep Q-learning with memory (Kapturowski et al. 2019), discrete actions",
    steps=100_000,
    presets={
        "agentlib/CartPoleNoVel-v0": {
            "steps": 250_000,
            "learning_rate": Linear(1e-3, 2e-5),
            "reward_scale": 0.01,
            "exploration_fraction": 0.12,
            "net_arch": (64,),
        },
    },
)
