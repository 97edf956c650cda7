"""Behavioural cloning: supervised learning of an expert's actions (Pomerleau 1991, doi:10.1162/neco.1991.3.1.88).

    L = E[ -log pi(a | o) ] - ent_weight E[ H(pi(. | o)) ] + l2_weight |theta|^2 / 2

E goes over the labelled steps of the demonstrations. With `loss="mse"`, |mean - a|^2 stands in place of -log pi, for
real-valued actions. A policy with memory is given chunks of episodes, `(B, T)`, and learns from all their steps. The
members of an ensemble learn side by side, each for itself.

Names and defaults are those of the `imitation` library, whose update this is. It differs in the batches
(`agentlib.data.DemonstrationBatches`): there the last, smaller batch of an epoch is left out, here none is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Schedule, adam
from agentlib.data import Demonstration, DemonstrationBatches, Demonstrations
from agentlib.data.demonstration_batches import Labelled
from agentlib.policies import CategoricalPolicy, DeterministicPolicy, EnsemblePolicy, GaussianPolicy
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def negative_log_likelihood(policy: Any, output: Tensor, action: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log pi(a | o), `(...)`; smoothed, a share of the label goes evenly to all n actions (Szegedy et al. 2016)."""
    if smoothing == 0.0:
        return -policy.log_prob(output, action)  # type: ignore[no-any-return]
    logits = output.movedim(-1, 1)  # (B, n, ...)
    return functional.cross_entropy(logits, action.long(), reduction="none", label_smoothing=smoothing)


def squared_error(policy: GaussianPolicy | DeterministicPolicy, output: Tensor, action: Tensor) -> Tensor:
    """|mean - a|^2 over the numbers of an action, averaged, `(...)`, before it is cut to the bounds."""
    mean = policy.mean_and_log_std(output)[0] if isinstance(policy, GaussianPolicy) else output
    if isinstance(policy, GaussianPolicy) and policy.squashed:
        mean = policy.bounds.squash(mean)
    return (mean - policy.bounds.flat(action)).square().mean(-1)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Of the values that have a weight; 0 if none has."""
    return (weight * values).sum() / weight.sum().clamp_min(1e-8)


@dataclass(frozen=True, kw_only=True)
class CloningConfig:
    """The numbers of the update, which `BCConfig` and `DAggerConfig` share."""

    learning_rate: Schedule = 1e-3
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 32
    """Steps per update; chunks, with `sequence_length`."""
    ent_weight: float = 1e-3
    """Weight of the entropy, which keeps the policy from being too sure."""
    l2_weight: float = 0.0
    """Weight of half the squared parameters."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    loss: Literal["nll", "mse"] = "nll"
    """Likelihood of the labels, or, for real-valued actions, squared error."""
    label_smoothing: float = 0.0
    """Share of each label that goes evenly to all actions; for one discrete choice."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """A weight for each discrete action; "balanced" gives all actions of the demonstrations the same sum."""
    sequence_length: int | None = None
    """Steps per chunk for policies with a memory, which need it; None for single steps."""
    from_start: float = 0.5
    """Share of the chunks that begin where their episode does."""
    previous_action: bool = False
    """A memory that is chosen by name also reads the action before each observation."""
    ensemble: int = 1
    """Policies that learn side by side and decide together; they know where they disagree."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; by default 64 and 64, or none after a CNN."""
    squashed: bool = False
    """Squash real-valued actions into their bounds by tanh; otherwise they are cut."""
    normalize: bool = True
    """Standardize observations by the statistics of what was seen, which travel with the agent."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "sequence_length", "ensemble")
        check_range(self, 0, math.inf, "learning_rate", "ent_weight", "l2_weight", "max_grad_norm")
        check_range(self, 0, 1, "label_smoothing", "from_start")


@dataclass(frozen=True, kw_only=True)
class BCConfig(CloningConfig):
    """All numbers of a run of behavioural cloning; names and defaults are those of `imitation`."""

    epochs: int = 10
    """How often to go through the demonstrations, if the run's steps (updates) are not given."""
    validation: float = 0.0
    """Share of the episodes, whole ones, that is set aside to see how well unseen steps are predicted."""
    patience: int | None = None
    """With `validation`: epochs without a better loss there after which the best weights are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "epochs", "patience")
        check_range(self, 0, 0.9, "validation")
        if self.patience is not None and not self.validation:
            raise ValueError("BCConfig.patience waits for a better loss on held-out episodes: set validation, too")


class BC(Learner):
    """Behavioural cloning.

    Args:
        policy: any of `agentlib.policies` that gives a distribution; for `loss="mse"`, one of real-valued actions.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
    """

    class_weights: Tensor | None

    def __init__(self, policy: nn.Module, optimizer: Optimizer, config: CloningConfig = BCConfig()) -> None:
        super().__init__()
        self.policy, self.config = policy, config
        self.members: Sequence[Any] = list(policy.members) if isinstance(policy, EnsemblePolicy) else [policy]
        if config.loss == "nll" and not all(hasattr(member, "log_prob") for member in self.members):
            raise ValueError(f"{type(self.members[0]).__name__} gives no distribution over actions to learn by")
        if config.loss == "mse" and not isinstance(self.members[0], GaussianPolicy | DeterministicPolicy):
            raise ValueError('loss="mse" is for real-valued actions; discrete ones have likelihoods: loss="nll"')
        if config.class_weights == "balanced":
            raise ValueError("class_weights='balanced' is for a recipe, which knows the labels: give numbers here")
        if (config.class_weights or config.label_smoothing) and not isinstance(self.members[0], CategoricalPolicy):
            raise ValueError("class_weights and label_smoothing are for Discrete actions")
        if config.class_weights and len(config.class_weights) != self.members[0].n_actions:
            raise ValueError(f"{len(config.class_weights)} class_weights for {self.members[0].n_actions} actions")
        weights = torch.tensor(config.class_weights) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.step = Step(policy, optimizer, config.max_grad_norm)

    def update(self, batch: Labelled) -> Update:
        """One step on the loss of a batch."""
        weight = batch.weight if self.class_weights is None else batch.weight * self.class_weights[batch.action.long()]
        results = [self._losses(member, batch, weight) for member in self.members]
        cost, entropy, likelihood = torch.stack([torch.stack(result) for result in results]).mean(0)
        l2_norm = sum(parameter.square().sum() for parameter in self.step.parameter_list) / 2.0
        loss = cost - self.config.ent_weight * entropy + self.config.l2_weight * l2_norm
        norm = self.step(loss, batch.clock)
        name = "neglogp" if self.config.loss == "nll" else "squared_error"
        metrics = {"loss": loss, name: cost, "entropy": entropy, "prob_true_act": likelihood, "l2_norm": l2_norm}
        return Update({key: value.detach() for key, value in metrics.items()} | {"grad_norm": norm})

    def _losses(self, policy: Any, batch: Labelled, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is minimized, the entropy, and the likelihood of the labels, each 0-dim."""
        start = batch.episode_start if getattr(policy, "is_sequence", False) else None
        output, _ = policy(batch.observation, None, start)
        if self.config.loss == "mse":
            zero = torch.zeros_like(weight).sum()
            return weighted_mean(squared_error(policy, output, batch.action), weight), zero, zero
        cost = negative_log_likelihood(policy, output, batch.action, self.config.label_smoothing)
        likelihood = policy.log_prob(output, batch.action).detach().exp()
        entropy = weighted_mean(policy.entropy(output), batch.weight)
        return weighted_mean(cost, weight), entropy, weighted_mean(likelihood, batch.weight)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, DemonstrationBatches]:
        """The smallest honest run: eight episodes of say-what-you-see, two layers of 16."""
        from gymnasium import spaces

        generator = np.random.default_rng(0)  # the demonstrations are given: the seed is of weights and order
        demonstrations = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4))
        for _ in range(8):
            seen = generator.uniform(-1, 1, (17, 2))
            quadrant = 2 * (seen[:16, 0] > 0) + (seen[:16, 1] > 0)
            demonstrations.append(Demonstration(seen, quadrant, np.zeros(16)))
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            policy = CategoricalPolicy(MLP(2, hidden=(16, 16)), n_actions=4)
        return cls(policy, adam(1e-3)), DemonstrationBatches(demonstrations, batch_size=16, seed=seed)
