"""Denoising diffusion (Ho et al. 2020, arXiv:2006.11239).

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise
    L = E | noise - noise_hat(x_t, t) |^2                      t uniform, the mean over dimensions

The paper's "simple" loss, which weighs all times alike. The schedule of noise and the samplers are the model's
(`agentlib.backbones.DiffusionModel`). As in the paper, samples come from an average of the weights, kept by a `Target`.
We differ in the default schedule, the cosine of Nichol & Dhariwal (2021, arXiv:2102.09672), in what the network gives,
the velocity of Salimans & Ho (2022, arXiv:2202.00512) from which noise_hat is computed, and in bringing data to unit
variance instead of to [-1, 1]. The loss says little about samples: judge those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import DiffusionModel, Optimized
from agentlib.backbones.denoisers import denoiser_for
from agentlib.backbones.diffusion import Sampler, Schedule, Variance
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Target, Update, average_rate
from agentlib.core.config import Count, NonNegative, Range, Rate, Unit
from agentlib.data import Examples, Splits
from agentlib.data.toys import eight_gaussians
from agentlib.families.generative import GenerativeFacts, on_generative


def denoising_losses(model: DiffusionModel, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """|noise - noise_hat(x_t, t)|^2 `(B,)`, the mean over dimensions, at random times; plus the term of the variance.

    Args:
        model: predicts the noise; where it learns the variance, too, 0.001 T times `bound_terms` is added, which trains
            the variance alone (Nichol & Dhariwal 2021, eq. 16).
        x: `(B, *shape)`, as the data has it.
        condition: `(B, condition_dim)`.
    """
    t = torch.randint(model.noise_steps, (len(x),), device=x.device)
    origin = (x - model.center) / model.scale
    noise = torch.randn_like(origin)
    noisy = model.noised(origin, t, noise)
    if model.variance != "learned":
        predicted: Tensor = model(noisy, t, condition)
        return (predicted - noise).square().flatten(1).mean(1)
    velocity, logits = model.outputs(noisy, t, condition)
    losses = (model.noise_in(noisy, t, velocity) - noise).square().flatten(1).mean(1)
    return losses + 0.001 * model.noise_steps * bound_terms(model, origin, noisy, t, velocity.detach(), logits)


def bound_terms(
    model: DiffusionModel, origin: Tensor, noisy: Tensor, t: Tensor, velocity: Tensor, logits: Tensor | None = None
) -> Tensor:
    """KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ) `(B,)`, at t = 0 -log p(x_0 | x_t), in nats per dimension.

    Summed over t they bound -log p(x_0), but for the last KL, from N(0, I). x_0 (`origin`), x_t (`noisy`), velocities
    and logits of a learned variance are `(B, *shape)`, all standardized.
    """
    mean, _ = model.posterior(model.origin_in(noisy, t, velocity), noisy, t)
    truth, variance = model.posterior(origin, noisy, t)
    log_variance = model.log_variance(t, logits)
    distance = (variance + (truth - mean).square()) / log_variance.exp() + log_variance
    at_end = (t == 0).view(variance.shape)
    constant = torch.where(at_end, math.log(2 * math.pi), -1.0 - torch.where(at_end, 1.0, variance).log())
    return (0.5 * (distance + constant)).flatten(1).mean(1)


def one_hot(label: Tensor, n_classes: int) -> Tensor:
    """Labels `(B,)` as indicator vectors `(B, n_classes)`."""
    # A comparison, not torch's one_hot: that one inspects the values, which a captured update cannot.
    return (label[:, None] == torch.arange(n_classes, device=label.device)).float()


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Optimized):
    """The numbers of a diffusion model's run."""

    learning_rate: Rate = Cosine(2e-3, 0.0)
    batch_size: Count = 512
    noise_steps: Annotated[int, Range(2)] = 200
    """Number of steps between data and noise; with fewer, samples are too narrow."""
    schedule: Schedule = "cosine"
    """Growth of the noise with the steps."""
    average: Unit = 0.999
    """Decay rate of the average of the weights, from which samples come."""
    conditional: bool = False
    """Give the model each example's label, or its row of numbers, so that samples can be drawn by it."""
    condition_dropout: Unit = 0.0
    """Share of the examples whose label is hidden in training, for guidance; 0.1 is usual."""
    guidance_scale: NonNegative = 1.0
    """How far samples follow their label: 0 ignores it, 1 draws as learned, more makes it clearer and samples alike."""
    variance: Variance = "small"
    """Variance of random steps while sampling: one of the two bounds of the best one, or learned between them."""
    clip: bool = False
    """While sampling, keep to the range of the data."""
    sample_steps: int | None = None
    """Steps in which samples are drawn; None takes all `noise_steps`."""
    sampler: Sampler | None = None
    """Kind of these steps: "ddpm", at random, for None steps; "ddim", fixed, for a number; "dpm", of second order."""
    net_arch: tuple[int, ...] = (128, 128, 128)
    """Widths of the denoiser's layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_steps is not None and not 1 <= self.sample_steps <= self.noise_steps:
            most = f"{self.noise_steps}, the noise_steps, not {self.sample_steps}"
            raise ValueError(f"DiffusionConfig.sample_steps must be between 1 and {most}")
        if self.condition_dropout and not self.conditional:
            raise ValueError("DiffusionConfig.condition_dropout hides labels, which need conditional=True")
        if self.guidance_scale != 1.0 and not self.condition_dropout:
            raise ValueError("DiffusionConfig.guidance_scale needs examples without labels, too: condition_dropout=0.1")


class Diffusion(Learner):
    """Learns to predict the noise in noisy data; the model is in the data's scale, see `DiffusionModel.standardize`.

    Raises:
        ValueError: a conditional model, and no classes.
    """

    is_mean_over_samples, reads_vectors = True, True

    def __init__(
        self,
        model: DiffusionModel,
        optimizer: Optimizer,
        config: DiffusionConfig = DiffusionConfig(),
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        if config.conditional and n_classes < 1:
            raise ValueError("a conditional model needs n_classes, the number of labels or of numbers in a condition")
        self.config, self.n_classes, self.passes = config, n_classes, config.sample_steps or config.noise_steps
        self.model, self.average = model, Target(model)
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def network(backbone: Any, config: DiffusionConfig, facts: GenerativeFacts) -> nn.Module:
        return denoiser_for(facts.shape, backbone, config.net_arch, facts.n_classes, config.variance == "learned")

    @classmethod
    def build(cls, backbone: nn.Module, config: DiffusionConfig, facts: GenerativeFacts) -> Self:
        """A diffusion model by a denoiser, for the training part in its scale; a learned variance is the denoiser's."""
        if config.variance == "learned" and not getattr(backbone, "learn_variance", False):
            raise ValueError('variance="learned" needs backbone="auto", or a denoiser with learn_variance=True')
        how = config.noise_steps, config.schedule, config.clip, config.variance
        model = DiffusionModel(backbone, facts.shape, *how)
        model.standardize(facts.train.x)
        return cls(model, config.optimizer(), config, facts.n_classes)

    @property
    def product(self) -> nn.Module:
        """The averaged model."""
        return self.average.network

    def sample(self, n: int, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n samples `(n, *shape)` of the averaged model, of labels `(n,)` or of conditions `(n, k)`."""
        network: Any = self.average.network
        condition = None if label is None else self.condition(label)
        config, guidance = self.config, 1.0 if label is None else self.config.guidance_scale
        how: Any = {"steps": config.sample_steps, "sampler": config.sampler, "guidance_scale": guidance}
        samples: Tensor = network.sample(n, condition, generator=generator, **how)
        return samples

    def condition(self, y: Tensor) -> Tensor:
        """What the network reads `(B, k)`: indicators of labels `(B,)`; rows of numbers as they are."""
        return one_hot(y, self.n_classes) if y.dim() == 1 else y

    def update(self, batch: Examples) -> Update:
        """One step on the squared error of the noise; `per_sample` holds the errors `(B,)`."""
        condition = None
        if self.config.conditional:
            assert batch.y is not None
            condition = self.condition(batch.y)
            if self.config.condition_dropout:
                known = torch.rand_like(condition[:, :1]) >= self.config.condition_dropout
                condition = condition * known
        losses = denoising_losses(self.model, batch.x, condition)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight Gaussians by label, two layers of 32."""
        sizes: Any = {"learning_rate": 1e-3, "batch_size": 64, "net_arch": (32, 32)}
        config = DiffusionConfig(noise_steps=20, conditional=True, average=0.9, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[eight_gaussians(400)] * 3))


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"clip": True, "net_arch": (256, 256, 256), "batch_size": 128},
    "shapes": {"clip": True, "batch_size": 64},
}
SUMMARY = "denoising diffusion (Ho et al. 2020), plain or conditional"
RECIPE = Recipe("diffusion", Diffusion, DiffusionConfig, on_generative, SUMMARY, steps=6_000, presets=PRESETS)
