"""Behavioural cloning: supervised learning of an expert's actions (Pomerleau 1991, doi:10.1162/neco.1991.3.1.88).

    L = E[ -log pi(a | o) ] - ent_weight E[ H(pi(. | o)) ] + l2_weight |theta|^2 / 2

E goes over the labelled steps of the demonstrations. With `loss="mse"`, |mean - a|^2 stands in place of -log pi, for
real-valued actions. A policy with memory reads chunks of episodes, `(B, T)`, and learns from all their steps. The
members of an ensemble learn side by side, each for itself.

Names and defaults are those of the `imitation` library, whose update this is. It differs in the batches
(`agentlib.experience.DemonstrationBatches`): there the last, smaller batch of an epoch is left out, here none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Optimized
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Range, Unit, Whole
from agentlib.experience import Demonstration, Demonstrations, Labelled
from agentlib.families.demonstrations import DemonstrationFacts, observe_all, on_demonstrations
from agentlib.learners.supervised.classifier import balanced_weights
from agentlib.metrics.targets import numbers_for
from agentlib.policies import CategoricalPolicy, DeterministicPolicy, EnsemblePolicy, GaussianPolicy, policy_for
from agentlib.policies.base import is_policy
from agentlib.policies.shifting import shifted


def negative_log_likelihood(policy: Any, output: Tensor, action: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log pi(a | o), `(...)`; smoothed, a share of the label goes evenly to all n actions (Szegedy et al. 2016)."""
    if smoothing == 0.0:
        return -policy.log_prob(output, action)  # type: ignore[no-any-return]
    logits = output.movedim(-1, 1)  # (B, n, ...)
    return functional.cross_entropy(logits, action.long(), reduction="none", label_smoothing=smoothing)


def squared_error(policy: GaussianPolicy | DeterministicPolicy, output: Tensor, action: Tensor) -> Tensor:
    """|mean - a|^2 over the numbers of an action, averaged, `(...)`, before it is clipped to the bounds."""
    mean = policy.mean_and_log_std(output)[0] if isinstance(policy, GaussianPolicy) else output
    if isinstance(policy, GaussianPolicy) and policy.squashed:
        mean = policy.bounds.squash(mean)
    return (mean - numbers_for(mean, action)).square().mean(-1)


def weighted_mean(values: Tensor, weight: Tensor, ranks: Any = None) -> Tensor:
    """The weighted mean of values, 0-dim; 0 if no weight is above 0. With `ranks`, of the whole batch."""
    total = weight.sum() if ranks is None else ranks.share(weight.sum())
    return (weight * values).sum() / total.clamp_min(1e-8)


@dataclass(frozen=True, kw_only=True)
class CloningConfig(Optimized):
    """The numbers of the update, which `BCConfig` and `DAggerConfig` share."""

    batch_size: Count = 32
    """Steps per update; with `sequence_length`, chunks of episodes per update."""
    ent_weight: NonNegative = 1e-3
    """Weight of the policy's entropy, a bonus in the loss."""
    l2_weight: NonNegative = 0.0
    """Weight of half the sum of squared parameters, a penalty in the loss."""
    loss: Literal["nll", "mse"] = "nll"
    """Negative log likelihood of the labels ("nll"); or squared error ("mse"), for real-valued actions."""
    label_smoothing: Unit = 0.0
    """Share of each label that is spread evenly over all actions; for Discrete actions."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """Weight of each discrete action in the loss; "balanced" gives all actions that occur the same total weight."""
    sequence_length: Count | None = None
    """Steps per chunk of an episode, for policies with memory; the default is 100 there, and single steps elsewhere."""
    from_start: Unit = 0.5
    """Share of the chunks that begin where their episode does."""
    previous_action: bool = False
    """Let a memory that is chosen by name read the last action too."""
    ensemble: Count = 1
    """Number of policies that learn side by side and decide together."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; the default depends on the kind of input."""
    squashed: bool = False
    """Squash real-valued actions into their bounds by tanh; otherwise they are clipped."""
    random_shift: Whole = 0
    """Move the images of a batch by up to this number of pixels, in each direction; 0 disables it."""
    normalize: bool = True
    """Standardize vectors by running statistics of the observations, which are saved with the agent."""


@dataclass(frozen=True, kw_only=True)
class BCConfig(CloningConfig):
    """The numbers of a run of behavioural cloning."""

    epochs: Count = 10
    """Passes over the demonstrations; without effect where the length of the run is given in steps."""
    validation: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of the episodes that is held out, to measure the loss on steps that nothing was learned from."""
    patience: Count | None = None
    """Epochs without a smaller held-out loss before the run stops, with its best weights; None never stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and not self.validation:
            raise ValueError("BCConfig.patience waits for a better loss on held-out episodes: set validation, too")


class BC(Learner):
    """Behavioural cloning, of a policy that gives a distribution; for `loss="mse"`, of one of real-valued actions.

    Raises:
        ValueError: the policy does not fit the loss or the weights of classes.
    """

    is_mean_over_samples = True  # weighted, by the weights of the whole batch
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

    @classmethod
    def build(cls, backbone: nn.Module, config: CloningConfig, facts: DemonstrationFacts) -> Self:
        """On a backbone, with more of them for an ensemble; or of a policy that is one already."""
        done = facts.action_space

        def policy_on(network: nn.Module) -> nn.Module:
            if config.loss == "mse" and isinstance(done, spaces.Box):
                return DeterministicPolicy(network, done, config.squashed)
            return policy_for(done, network, squashed=config.squashed)

        policy = backbone if is_policy(backbone) else policy_on(backbone)
        if config.ensemble > 1 and not is_policy(backbone):
            others = [policy_on(facts.another_backbone()) for _ in range(config.ensemble - 1)]
            policy = EnsemblePolicy([policy, *others])
        observe_all(policy, facts.demonstrations)
        if config.class_weights == "balanced":
            if not isinstance(done, spaces.Discrete):
                raise ValueError(f"class_weights are for Discrete actions, not for {done}")
            labels = np.concatenate([episode.labels[episode.labelled] for episode in facts.demonstrations]) - done.start
            config = replace(config, class_weights=balanced_weights(torch.from_numpy(labels), int(done.n)))
        return cls(policy, config.optimizer(), config)

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
        """The cost, the entropy, and the likelihood of the labels, each 0-dim."""
        mean = partial(weighted_mean, ranks=self.ranks)
        start = batch.episode_start if getattr(policy, "is_sequence", False) else None
        output, _ = policy(shifted(policy, batch.observation, self.config.random_shift), None, start)
        if self.config.loss == "mse":
            zero = torch.zeros_like(weight).sum()
            return mean(squared_error(policy, output, batch.action), weight), zero, zero
        cost = negative_log_likelihood(policy, output, batch.action, self.config.label_smoothing)
        likelihood = policy.log_prob(output, batch.action).detach().exp()
        entropy = mean(policy.entropy(output), batch.weight)
        return mean(cost, weight), entropy, mean(likelihood, batch.weight)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight episodes of say-what-you-see, two layers of 16."""
        generator = np.random.default_rng(0)  # the demonstrations are given: the seed is of weights and order
        demonstrations = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(4))
        for _ in range(8):
            points = generator.uniform(-1, 1, (17, 2))
            quadrant = 2 * (points[:16, 0] > 0) + (points[:16, 1] > 0)
            demonstrations.append(Demonstration(points, quadrant, np.zeros(16)))
        config = BCConfig(batch_size=16, net_arch=(16, 16), normalize=False)
        return RECIPE.tiny(cls, config, seed, demos=demonstrations)


_BC = "behavioural cloning (Pomerleau 1991), copies demonstrations; any actions"
RECIPE = Recipe("bc", BC, BCConfig, on_demonstrations, _BC, presets={"MountainCar-v0": {"epochs": 50}})
