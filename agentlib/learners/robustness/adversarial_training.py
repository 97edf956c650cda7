"""Adversarial training (Madry et al. 2018, arXiv:1706.06083): learning on the worst examples near those at hand.

    min over w of  E[ max over ||d||_p <= epsilon  of  L(f_w(x + d), y) ]

The inner maximum is found by PGD (`attacks.py`), the outer step treats x + d as given: by Danskin's theorem its
gradient is that of the maximum. For a linear model f = w.x + b one step is exact, since the worst margin is known:
y f(x) - epsilon ||w||_q with 1/p + 1/q = 1, so that the loss is log(1 + exp(-(y f(x) - epsilon ||w||_q))).

With `clean_share` the loss is (1 - share) L(x + d) + share L(x) (Goodfellow et al. 2015, arXiv:1412.6572, with one
half). With `hinge` L is max(max_{a != y} f_a(x + d) - f_y(x + d), -hinge), up to a constant: the regularizer of SA-DQN
(Zhang et al. 2020, arXiv:2003.08938) where f are action values and y the greedy action at x.

One step from a random start is "fast" adversarial training (Wong et al. 2020, arXiv:2001.03994), which may collapse,
most of all on images of black and white, where a start within the bounds ends in one corner; `clip_start=False` leaves
it as it is drawn. With `average` a running average of the weights is kept (Rebuffi et al. 2021, arXiv:2103.01946). The
inner attack sees the model in training mode. On a policy the examples are observations, the labels its actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones.combine import scale_of
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, NonNegative, Unit
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.attacked import on_attacked
from agentlib.families.examples import ExampleFacts
from agentlib.learners.supervised.classifier import cross_entropy
from agentlib.learners.supervised.mixtures import Mixed, mixed, mixed_losses
from agentlib.learners.supervised.regularization import Supervised, penalized, penalty
from agentlib.metrics.attacks import LossName, loss_name, margin, perturb
from agentlib.metrics.norms import Norm, check_scale, units
from agentlib.metrics.scores import logits_from
from agentlib.policies import CategoricalPolicy
from agentlib.policies.base import is_policy, require_no_memory


@dataclass(frozen=True, kw_only=True)
class AdversarialTrainingConfig(Mixed, Supervised):
    """The numbers of a run of adversarial training."""

    epsilon: NonNegative = 0.1
    """Largest change of an example, in the scale of the data; for data without bounds, in its standard deviations."""
    epsilon_warmup: Unit = 0.0
    """Share of the run over which epsilon rises linearly from 0; a large one at once may teach a constant answer."""
    norm: Norm = "linf"
    """Norm that measures the change of an example."""
    attack_steps: Count = 7
    """Steps of the inner PGD; 1 is exact for linear models."""
    attack_step_size: NonNegative | None = None
    """Length of each of these steps; None takes epsilon for one step, else 2.5 epsilon / steps."""
    random_start: bool = True
    """Start the inner attack at a random point of the ball."""
    clip_start: bool = True
    """Keep this point within the bounds of the data; turn it off for one step of 1.25 epsilon, as Wong et al. do."""
    attack_loss: LossName | None = None
    """Loss that the attack makes large; None takes the margin of action values, else the cross-entropy."""
    clean_share: Unit = 0.0
    """Share of the loss that is that of the unchanged examples."""
    hinge: NonNegative | None = None
    """Learn by a hinge, for action values: the lead over the largest other score beyond which no example counts."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Smallest and largest value of the data; None for data without bounds."""
    average: Unit = 0.0
    """Share of the averaged weights that stays at each update, such as 0.995; 0 keeps the last weights."""
    patience: Count | None = None
    """Evaluations under attack (20 per run at most) without a smaller loss before the run stops; None never stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is None:
            return
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"bounds are the smallest and the largest value of the data, not {low:g} and {high:g}")
        if self.norm == "linf" and self.epsilon > high - low:
            raise ValueError(
                f"epsilon={self.epsilon:g} is more than the whole range of the data, {low:g} to {high:g}: of "
                f"8-bit images in 0 to 1 it would be {self.epsilon:g} / 255 = {self.epsilon / 255:.3g}"
            )


class AdversarialTraining(Learner):
    """Classification, learned on the worst examples within epsilon.

    The policy has logits `(B, K)`, as `CategoricalPolicy` and `QPolicy` do; `scale` is epsilon's unit, as of `attack`.
    """

    targets = "classes"
    scale: Tensor

    def __init__(
        self,
        policy: nn.Module,
        optimizer: Optimizer,
        config: AdversarialTrainingConfig = AdversarialTrainingConfig(),
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        require_no_memory(policy, "adversarial training")
        self.config, self.policy = config, policy
        self.register_buffer("scale", torch.ones(()) if scale is None else torch.as_tensor(units(scale.detach())))
        self.averaged = Target(policy) if config.average else None
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)

    @classmethod
    def build(cls, backbone: nn.Module, config: AdversarialTrainingConfig, facts: ExampleFacts) -> Self:
        """A classifier on a backbone, or a policy as it is; where data has no bounds, epsilon is in its deviations.

        Raises:
            ValueError: the training examples are not within the bounds, or in another scale than epsilon.
        """
        x = facts.train.x
        if config.bounds is not None:
            check_scale(x, config.epsilon, config.norm, config.bounds)
        policy: Any = backbone
        if not is_policy(backbone):
            policy = CategoricalPolicy(backbone, facts.n_classes)
            policy.observe(x)
        return cls(policy, config.optimizer(), config, scale_of(x, 1) if config.bounds is None else None)

    @property
    def model(self) -> nn.Module:
        """The model that is kept: the average of the weights, or the last ones."""
        return self.policy if self.averaged is None else self.averaged.network

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, K)` of the model that is kept."""
        return logits_from(self.model, self.model(x))

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy `(B,)` of logits with labels, or the hinge's loss."""
        if self.config.hinge is None:
            return cross_entropy(output, target)
        return (margin(output, target) + self.config.hinge).clamp_min(0.0)

    def update(self, batch: Examples) -> Update:
        """One step on the loss of the changed batch; `per_sample` holds its losses `(B,)`."""
        config, y, scale = self.config, batch.y, self.scale
        assert y is not None
        if config.epsilon_warmup:  # a scale of 0 would count as 1
            rise = torch.as_tensor(batch.clock.fraction / config.epsilon_warmup)
            scale = scale * rise.clamp(1e-3, 1.0).to(scale.dtype)

        def logits_at(x: Tensor) -> Tensor:
            return logits_from(self.policy, self.policy(x))  # (B, K)

        height = margin if loss_name(self.policy, config.attack_loss) == "margin" else cross_entropy
        clean, share = mixed(batch.x, config)
        changed = perturb(
            lambda x: mixed_losses(lambda labels: height(logits_at(x), labels), y, share),
            clean,
            epsilon=config.epsilon,
            norm=config.norm,
            steps=config.attack_steps,
            step_size=config.attack_step_size or None,
            bounds=config.bounds,
            scale=scale,
            random_start=config.random_start,
            clip_start=config.clip_start,
        )
        logits = logits_at(changed)
        losses = mixed_losses(partial(self.losses, logits), y, share)
        if config.clean_share:
            usual = mixed_losses(partial(self.losses, logits_at(clean)), y, share)
            losses = (1.0 - config.clean_share) * losses + config.clean_share * usual
        loss = losses.mean() + penalty(self.matrices, config.l1, config.l2)
        norm = self.step(loss, batch.clock)
        if self.averaged is not None:
            self.averaged.follow(1.0 - config.average)
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        return Update({"loss": loss.detach(), "robust_accuracy": accuracy, "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: three clouds of points in the unit square, one layer of 16."""
        labels, noise = torch.arange(96) % 3, torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
        points = (0.25 + 0.1 * noise + 0.5 * torch.eye(3, 2)[labels]).clamp(0.0, 1.0)
        data = Dataset(points, labels, ("right", "up", "corner"))
        sizes: Any = {"learning_rate": 1e-2, "batch_size": 32, "net_arch": (16,), "normalize": False}
        config = AdversarialTrainingConfig(epsilon=0.05, attack_steps=2, l2=1e-4, average=0.9, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data))


RECIPE = Recipe(
    "adversarial",
    AdversarialTraining,
    AdversarialTrainingConfig,
    on_attacked,
    "a classifier that withstands attacks (Madry et al. 2018)",
    steps=2_000,
    presets={"digits": {"epsilon": 0.15, "learning_rate": Cosine(2e-3), "steps": 600}},
)
