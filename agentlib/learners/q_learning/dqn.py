"""Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236).

    y = r + gamma (1 - terminated) max_a Q'(s', a)
    L = E[ w huber(Q(s, a) - y) ]

Q' is a target network that follows Q; the maximum is over legal actions. With `double`, Q chooses the action that Q'
values (van Hasselt et al. 2016, doi:10.1609/aaai.v30i1.10295). Dueling, noise, distributions and branches are the
policy's (`QPolicy`); returns over several steps, priorities and masks the source's (`agentlib.data.Replay`).

Names, defaults and the order of things are Stable-Baselines3's, where the paper says otherwise too: Adam in place of
RMSProp, Huber's loss, gradients clipped by their norm. The lecture notes leave out the discount, the terminal mask and
the target network; bootstrapping goes on where an episode was only cut off by a time limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import gymnasium
import torch
from torch import Tensor
from torch.nn import functional

from agentlib.backbones import MLP, Clock, Linear, Schedule, adam
from agentlib.data import Replay, ReplayBuffer, Transition
from agentlib.learners.q_learning.distributional import distributional_losses
from agentlib.policies import EpsilonGreedy, GreedyActor, QPolicy
from agentlib.training import Learner, Step, Target, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer

LOSSES = {"huber": functional.smooth_l1_loss, "mse": functional.mse_loss}


def td_target(reward: Tensor, discount: Tensor, terminated: Tensor, next_value: Tensor) -> Tensor:
    """r + discount (1 - terminated) V(s'); all `(B,)`."""
    return reward + discount * (1.0 - terminated) * next_value


def pick(values: Tensor, action: Tensor) -> Tensor:
    """The value of each action `(B,)` among values `(B, A)`; further axes of either stay: `(B, D)`, `(B, A, n)`."""
    index = action.reshape(len(action), -1, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    chosen = values.gather(1, index)  # (B, D, ...)
    return chosen if action.dim() > 1 else chosen[:, 0]


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """All numbers of a DQN run; names and defaults are SB3's."""

    learning_rate: Schedule = 1e-4
    """Step size of Adam; a number or a schedule."""
    buffer_size: int = 1_000_000
    """Transitions kept in the replay memory."""
    learning_starts: int = 100
    """Environment steps with random actions before the first update."""
    batch_size: int = 32
    """Transitions per update."""
    tau: float = 1.0
    """Share of the way that the target network moves at each of its updates; 1 copies."""
    gamma: float = 0.99
    """Discount per environment step."""
    train_freq: int = 4
    """Environment steps between updates."""
    gradient_steps: int = 1
    """Updates after every `train_freq` steps; -1 for as many as there were steps."""
    n_steps: int = 1
    """Steps of the returns before bootstrapping."""
    target_update_interval: int = 10_000
    """Environment steps between updates of the target network."""
    exploration_fraction: float = 0.1
    """Share of the run over which epsilon falls."""
    exploration_initial_eps: float = 1.0
    """Epsilon at the start."""
    exploration_final_eps: float = 0.05
    """Epsilon from then on."""
    max_grad_norm: float | None = 10.0
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; by default 64 and 64, or none after a CNN."""
    double: bool = False
    """The online network chooses the next action, the target network values it."""
    loss: Literal["huber", "mse"] = "huber"
    """How errors are weighed."""
    prioritized: bool = False
    """Draw transitions in proportion to their errors (Schaul et al. 2016)."""
    priority_exponent: float = 0.6
    """alpha: 0 draws uniformly, 1 in full proportion."""
    importance_exponent: Schedule = Linear(0.4, 1.0)
    """beta: how far the weights undo the bias of prioritized draws."""
    normalize: bool = False
    """Standardize observations by running statistics, which travel with the agent."""
    dueling: bool = False
    """Streams for the state's value and the actions' advantages (Wang et al. 2016)."""
    distributional: Literal["c51", "quantile"] | None = None
    """Learn the distribution of returns, on fixed atoms or as quantiles, in place of its mean."""
    n_atoms: int = 51
    """Atoms of "c51"."""
    v_min: float = -10.0
    """Lowest return of "c51"."""
    v_max: float = 10.0
    """Highest return of "c51"."""
    n_quantiles: int = 50
    """Quantiles of "quantile" (200 in the paper)."""
    noisy: bool = False
    """Explore by noise on the weights of the head, of a size that is learned (Fortunato et al. 2018)."""
    head_arch: tuple[int, ...] | None = None
    """Widths of each stream's layers in the head; None: one as wide as the features, if dueling, noisy or branched."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "buffer_size", "batch_size", "train_freq", "n_steps", "target_update_interval")
        check_range(self, 0, math.inf, "learning_rate", "learning_starts", "max_grad_norm", "priority_exponent")
        check_range(self, -1, math.inf, "gradient_steps")
        check_range(self, 0, 1, "tau", "gamma", "importance_exponent", "exploration_fraction")
        check_range(self, 0, 1, "exploration_initial_eps", "exploration_final_eps")
        check_range(self, 2, math.inf, "n_atoms", "n_quantiles")
        if not self.v_min < self.v_max:
            raise ValueError(f"DQNConfig.v_min must be below v_max, not {self.v_min} and {self.v_max}")


class DQN(Learner):
    """Deep Q-learning.

    Args:
        policy: action values, as `QPolicy` gives them.
        optimizer: a rule such as `adam(learning_rate=1e-4)`.
        config: this algorithm's numbers.
    """

    def __init__(self, policy: QPolicy, optimizer: Optimizer, config: DQNConfig = DQNConfig()) -> None:
        super().__init__()
        for name in ("dueling", "distributional", "noisy"):
            asked, there = getattr(config, name), getattr(policy, name, None)
            if asked and asked != there:
                raise ValueError(f"the config has {name}={asked!r}, the policy {name}={there!r}: give QPolicy the same")
        self.config = config
        self.policy, self.target = policy, Target(policy)
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.synced_at = 0

    def update(self, batch: Transition) -> Update:
        """One step on the TD error; `per_sample` holds the errors `(B,)`; of distributions, the divergences."""
        policy = self.policy
        output, _ = policy(batch.observation)  # (B, A), or (B, A, n) of distributions
        with torch.no_grad():
            next_output, _ = self.target(batch.next_observation)
            chooser = policy(batch.next_observation)[0] if self.config.double else next_output
            best = policy.choose(chooser, batch.next_mask)  # (B,), or (B, D) of several branches
            following = pick(next_output, policy.columns(best))
        chosen = pick(output, policy.columns(batch.action))
        outcome = batch.reward, batch.discount, batch.terminated
        if policy.distributional is not None:
            losses, error = distributional_losses(policy, chosen, following, *outcome)
        else:
            y = td_target(*outcome, following.mean(1) if policy.is_branched else following)
            y = y[:, None].expand_as(chosen) if policy.is_branched else y
            losses, error = LOSSES[self.config.loss](chosen, y, reduction="none"), chosen - y
        if policy.is_branched:
            losses, error = losses.mean(1), error.abs().mean(1)
        loss = (batch.weight * losses).mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "q_value": policy.values(chosen.detach()).mean(), "grad_norm": norm}
        return Update(metrics, per_sample=error.detach())

    def before_update(self, clock: Clock) -> None:
        """The target follows, once for each `target_update_interval` environment steps since the last time."""
        interval = self.config.target_update_interval
        due = int(clock.steps) // interval - self.synced_at // interval
        if due > 0:
            self.synced_at = int(clock.steps)
            self.target.follow(self.policy, 1.0 - (1.0 - self.config.tau) ** due)

    def get_extra_state(self) -> dict[str, Any]:
        """When the target network last followed."""
        return {"synced_at": self.synced_at}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.synced_at = state["synced_at"]

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Replay]:
        """The smallest honest run: CartPole, two layers of 16."""
        env = gymnasium.make("CartPole-v1")
        config = DQNConfig(buffer_size=500, learning_starts=64, target_update_interval=400, batch_size=16)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            policy = QPolicy(MLP(4, hidden=(16, 16)), n_actions=2)
        replay = Replay(
            env,
            actor=GreedyActor(policy, env.observation_space),
            buffer=ReplayBuffer(env.observation_space, env.action_space, config.buffer_size),
            exploration=EpsilonGreedy(env.action_space, epsilon=0.2, random_steps=config.learning_starts, seed=seed),
            batch_size=config.batch_size,
            learning_starts=config.learning_starts,
            seed=seed,
        )
        return cls(policy, adam(1e-3), config), replay
