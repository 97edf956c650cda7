"""Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236).

    y = r + gamma (1 - terminated) max_a Q'(s', a)
    L = E[ w huber(Q(s, a) - y) ]

Q' is a target network that follows Q; the maximum is over legal actions. With `double`, Q chooses the action that Q'
values (van Hasselt et al. 2016, doi:10.1609/aaai.v30i1.10295). Dueling, noise, distributions and branches are the
policy's (`QPolicy`); returns over several steps, priorities and masks the source's (`agentlib.experience.Replay`).
`cql_alpha` times E[ log sum_b exp Q(s, b) - Q(s, a) ] is added to L (Kumar et al. 2020, arXiv:2006.04779, equation 4);
"cql" learns so from recorded transitions. `random_shift` moves images (DrQ; Kostrikov et al. 2021, arXiv:2004.13649).

Names, defaults and the order of things are Stable-Baselines3's, where the paper says otherwise too: Adam in place of
RMSProp, Huber's loss, gradients clipped by their norm. The lecture notes leave out the discount, the terminal mask and
the target network; bootstrapping goes on where an episode was only cut off by a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.core import Clock, Counterpart, Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, NonNegative, Range, Rate, Unit, Whole
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts, on_replay
from agentlib.families.demonstrations import on_transitions
from agentlib.learners.q_learning.presets import DQN_PRESETS, RAINBOW_PRESETS
from agentlib.learners.q_learning.settings import Bellman, Exploring, Replayed
from agentlib.policies import QPolicy
from agentlib.policies.base import is_policy
from agentlib.policies.shifting import shifted


def td_target(reward: Tensor, discount: Tensor, terminated: Tensor, next_value: Tensor) -> Tensor:
    """r + discount (1 - terminated) V(s'), `(B, ...)`, for values `(B, ...)`; all else is `(B,)`."""
    axes = (-1, *[1] * (next_value.dim() - 1))
    return reward.view(axes) + (discount * (1.0 - terminated)).view(axes) * next_value


@dataclass(frozen=True, kw_only=True)
class DQNLearning(Bellman):
    """The network of a DQN and its updates, from replay or from records."""

    learning_rate: Rate = 1e-4
    batch_size: Count = 32
    """Transitions per update."""
    n_steps: Count = 1
    """Steps of the return before bootstrapping."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; the default is 64 and 64, and no layers after a convolutional network."""
    double: bool = False
    """Choose the next action by the online network, and value it by the target network (double Q-learning)."""
    dueling: bool = False
    """Use separate streams for the state's value and the actions' advantages (Wang et al. 2016)."""
    distributional: Literal["c51", "quantile"] | None = None
    """Learn the distribution of returns, on fixed atoms ("c51") or as quantiles, instead of their mean."""
    n_atoms: Annotated[int, Range(2)] = 51
    """Number of atoms of "c51"."""
    v_min: float = -10.0
    """Lowest return that "c51" represents."""
    v_max: float = 10.0
    """Highest return that "c51" represents."""
    n_quantiles: Annotated[int, Range(2)] = 50
    """Number of quantiles of "quantile"; the paper uses 200."""
    noisy: bool = False
    """Explore by noise of a learned size on the weights of the head (Fortunato et al. 2018)."""
    head_arch: tuple[int, ...] | None = None
    """Widths of the layers of each stream of the head; by default one, of the features' width, if there are streams."""
    random_shift: Whole = 0
    """Move the images of a batch by up to this number of pixels, in each direction (DrQ has 4 of 84); 0 disables it."""
    cql_alpha: NonNegative = 0.0
    """Weight of the loss that holds down the values of actions that the data do not have (Kumar et al. 2020)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_min < self.v_max:
            raise ValueError(f"{type(self).__name__}.v_min must be below v_max, not {self.v_min} and {self.v_max}")


@dataclass(frozen=True, kw_only=True)
class DQNConfig(Exploring, Replayed, DQNLearning):
    """The numbers of a DQN run; names and defaults are those of Stable-Baselines3."""


@dataclass(frozen=True, kw_only=True)
class CQLConfig(DQNLearning):
    """The numbers of a run of CQL; the sizes are those of `iql`."""

    learning_rate: Rate = 3e-4
    batch_size: Count = 256
    net_arch: tuple[int, ...] | None = (256, 256)
    target_update_interval: Count = 1
    tau: Unit = 0.005
    cql_alpha: NonNegative = 1.0


class DQN(Learner):
    """Deep Q-learning.

    Args:
        policy: action values, as `QPolicy` gives them.
        optimizer: a rule such as `adam(learning_rate=1e-4)`.
        config: this algorithm's numbers.

    Raises:
        ValueError: the policy has memory, or lacks an option that the config asks for.
    """

    is_mean_over_samples = True
    can_be_stacked = True

    def __init__(self, policy: QPolicy, optimizer: Optimizer, config: DQNLearning = DQNConfig()) -> None:
        super().__init__()
        if policy.is_sequence:
            raise ValueError('dqn learns from single steps: with a network that has memory, train "recurrent_dqn"')
        for name in ("dueling", "distributional", "noisy"):
            asked, there = getattr(config, name), getattr(policy, name, None)
            if asked and asked != there:
                raise ValueError(f"the config has {name}={asked!r}, the policy {name}={there!r}: give QPolicy the same")
        self.config, self.policy = config, policy
        self.target = Target(policy, every=config.target_update_interval, tau=config.tau)
        self.step = Step(policy, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DQNLearning, facts: ControlFacts) -> Self:
        """A DQN on a backbone, or of a policy that gives action values.

        Raises:
            ValueError: an action space that is neither Discrete nor a MultiDiscrete of one row; or another policy.
        """
        actions = facts.action_space
        if not isinstance(actions, spaces.Discrete | spaces.MultiDiscrete) or len(actions.shape or ()) > 1:
            others = "sac, td3, ppo" if isinstance(actions, spaces.Box) else "ppo, a2c"
            raise ValueError(f"dqn needs a Discrete action space, or a MultiDiscrete one of one row; this environment "
                             f"has {actions}. Learners that fit: {others}")  # fmt: skip
        if not is_policy(backbone):
            sizes = actions.nvec.tolist() if isinstance(actions, spaces.MultiDiscrete) else int(actions.n)
            hidden = config.head_arch
            if hidden is None:
                has_streams = config.dueling or config.noisy or isinstance(sizes, list)
                hidden = (int(backbone.feature_dim),) if has_streams else ()  # type: ignore[arg-type]
            names = ("dueling", "distributional", "v_min", "v_max", "noisy")
            options: Any = {name: getattr(config, name) for name in names}
            n_atoms = config.n_atoms if config.distributional == "c51" else config.n_quantiles
            backbone = QPolicy(backbone, sizes, n_atoms=n_atoms, hidden=hidden, **options)
        if not isinstance(backbone, QPolicy):
            raise ValueError(f"dqn goes on from an agent with action values, not {type(backbone).__name__}")
        return cls(backbone, config.optimizer(), config)

    def update(self, batch: Transition) -> Update:
        """One step on the TD error; `per_sample` holds the errors `(B,)`; of distributions, the divergences."""
        policy, bellman = self.policy, partial(td_target, batch.reward, batch.discount, batch.terminated)
        moved = partial(shifted, policy, pixels=self.config.random_shift)
        observation, later = moved(batch.observation), moved(batch.next_observation)
        output, _ = policy(observation)  # (B, A), or (B, A, n) of distributions
        with torch.no_grad():
            next_output, _ = self.target(later)
            chooser = policy(later)[0] if self.config.double else next_output
            best = policy.choose(chooser, batch.next_mask)  # (B,), or (B, D) of several branches
            y = policy.backed_up(policy.pick(next_output, best), bellman)
        chosen = policy.pick(output, batch.action)
        losses, error = policy.losses(chosen, y, self.config.loss)  # (B,)
        if self.config.cql_alpha:
            losses = losses + self.config.cql_alpha * policy.excess(output, batch.action, batch.mask)
        loss = (batch.weight * losses).mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "q_value": policy.values(chosen.detach()).mean(), "grad_norm": norm}
        return Update(metrics, per_sample=error.detach())

    def before_update(self, clock: Clock) -> None:
        """The target network follows, every `target_update_interval` environment steps."""
        self.target.follow_when_due(clock)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: CartPole, two layers of 16."""
        epsilon: Any = {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2}
        sizes: Any = {"buffer_size": 500, "batch_size": 16, "net_arch": (16, 16)}
        config = DQNConfig(learning_rate=1e-3, learning_starts=64, target_update_interval=400, **sizes, **epsilon)
        return RECIPE.tiny(cls, config, seed, env="CartPole-v1")


_DQN = "deep Q-learning (Mnih et al. 2015), discrete actions"
_SB3 = Counterpart("DQN", variants={("distributional", "quantile"): "QRDQN"})
RECIPE = Recipe("dqn", DQN, DQNConfig, on_replay, _DQN, steps=100_000, presets=DQN_PRESETS, sb3=_SB3)
_RAINBOW = "dqn with all its options on (Hessel et al. 2018)"
RAINBOW = replace(RECIPE, name="rainbow", summary=_RAINBOW, presets=RAINBOW_PRESETS)
_CQL = "conservative Q-learning (Kumar et al. 2020) from recorded episodes with rewards; discrete actions"
CQL = replace(
    RECIPE, name="cql", config=CQLConfig, family=on_transitions, summary=_CQL, steps=20_000, presets={}, sb3=None
)
