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

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch.nn import functional

from agentlib.backbones import LSTM, MLP, Clock, Schedule, WithMemory, adam
from agentlib.data import SequenceBuffer, SequenceReplay, Sequences
from agentlib.learners.q_learning.returns import watkins_returns
from agentlib.policies import EpsilonGreedy, MemoryActor, QPolicy
from agentlib.training import Learner, Step, Target, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer
from agentlib.training.trees import mapped


@dataclass(frozen=True, kw_only=True)
class RecurrentDQNConfig:
    """All numbers of a recurrent DQN run; names are SB3's where it has them."""

    learning_rate: Schedule = 1e-3
    """Step size of Adam; a number or a schedule."""
    buffer_size: int = 100_000
    """Frames kept in the replay memory."""
    learning_starts: int = 1_000
    """Environment steps with random actions before the first update."""
    batch_size: int = 32
    """Sequences per update."""
    sequence_length: int = 32
    """Steps of a sequence that are learned from."""
    burn_in: int = 8
    """Steps before them that only bring the state up to date."""
    sequence_period: int = 8
    """Frames from the start of one sequence to the start of the next."""
    stored_state: bool = True
    """Sequences start with the state that the actor had there; otherwise with that of a new episode."""
    previous_action: bool = True
    """The memory also reads the action before each observation."""
    trace: float = 0.8
    """lambda: 0 bootstraps after every step."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this."""
    tau: float = 0.01
    """Share of the way that the target network moves at each of its updates; 1 copies."""
    target_update_interval: int = 16
    """Environment steps between updates of the target network."""
    gamma: float = 0.99
    """Discount per environment step."""
    train_freq: int = 16
    """Environment steps between updates."""
    gradient_steps: int = 1
    """Updates after every `train_freq` steps; -1 for as many as there were steps."""
    exploration_fraction: float = 0.1
    """Share of the run over which epsilon falls."""
    exploration_initial_eps: float = 1.0
    """Epsilon at the start."""
    exploration_final_eps: float = 0.05
    """Epsilon from then on."""
    max_grad_norm: float | None = 10.0
    """Gradients are cut to this norm; None leaves them."""
    loss: Literal["huber", "mse"] = "huber"
    """How errors are weighed."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the layers before the memory, and, as the last, of the memory; by default 64 and 64."""
    normalize: bool = False
    """Standardize observations by running statistics, which travel with the agent."""
    act_by_average: bool = True
    """The agent that is kept acts by the target network."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "buffer_size", "batch_size", "sequence_length", "sequence_period", "train_freq")
        check_range(self, 1, math.inf, "target_update_interval")
        check_range(self, 0, math.inf, "learning_rate", "learning_starts", "burn_in", "max_grad_norm", "reward_scale")
        check_range(self, -1, math.inf, "gradient_steps")
        check_range(self, 0, 1, "tau", "gamma", "trace", "exploration_fraction")
        check_range(self, 0, 1, "exploration_initial_eps", "exploration_final_eps")


class RecurrentDQN(Learner):
    """Deep Q-learning on sequences.

    Args:
        policy: action values over a backbone with memory.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.

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
        self.config = config
        self.policy, self.target = policy, Target(policy)
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.synced_at = 0

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
        value = values[:, :-1].gather(-1, action[..., None])[..., 0]
        with torch.no_grad():
            legal = None if batch.mask is None else batch.mask[:, burn + 1 :]
            best = self.policy.choose(values[:, 1:], legal)  # (B, T)
            next_value = target_values.gather(-1, best[..., None])[..., 0]
            followed = (action[:, 1:] == best[:, :-1]) * weight[:, 1:]  # at the end of an episode nothing follows
            trace = self.config.trace * functional.pad(followed, (0, 1))
            reward = self.config.reward_scale * batch.reward[:, burn:]
            returns = watkins_returns(reward, batch.terminated[:, burn:], next_value, trace, self.config.gamma)
        huber = self.config.loss == "huber"
        losses = (functional.smooth_l1_loss if huber else functional.mse_loss)(value, returns, reduction="none")
        loss = (weight * losses).sum() / weight.sum()
        norm = self.step(loss, batch.clock)
        mean_value = (weight * value.detach()).sum() / weight.sum()
        return Update({"loss": loss.detach(), "q_value": mean_value, "grad_norm": norm})

    def before_update(self, clock: Clock) -> None:
        """The target follows, once for each `target_update_interval` environment steps since the last time."""
        interval = self.config.target_update_interval
        due = int(clock.steps) // interval - self.synced_at // interval
        self.synced_at = int(clock.steps)
        if due > 0:
            self.target.follow(self.policy, 1.0 - (1.0 - self.config.tau) ** due)

    def get_extra_state(self) -> dict[str, Any]:
        """When the target network last followed."""
        return {"synced_at": self.synced_at}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        self.synced_at = state["synced_at"]

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, SequenceReplay]:
        """The smallest honest run: CartPole without velocities, an LSTM of 8, sequences of 4 steps."""
        import gymnasium

        import agentlib.envs  # noqa: F401 - registers the environment

        env = gymnasium.make("agentlib/CartPoleNoVel-v0")
        config = RecurrentDQNConfig(sequence_length=4, burn_in=1, batch_size=16, target_update_interval=400)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            policy = QPolicy(WithMemory(MLP(2, ()), LSTM(4, 8), previous_action=2), n_actions=2)
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        replay = SequenceReplay(
            env,
            actor=MemoryActor(policy, env.observation_space),
            buffer=SequenceBuffer(
                env.observation_space,
                env.action_space,
                500,
                sequence_length=config.burn_in + config.sequence_length,
                period=2,
                with_actions=True,
                state=policy.initial_state(1),
            ),
            exploration=EpsilonGreedy(env.action_space, epsilon=0.2, random_steps=64, seed=seed),
            batch_size=config.batch_size,
            learning_starts=64,
            train_freq=4,
            seed=seed,
        )
        return cls(policy, adam(1e-3), config), replay
