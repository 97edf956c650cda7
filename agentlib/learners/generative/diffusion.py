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
from typing import Literal, Self

import torch
from torch import Tensor

from agentlib.backbones import Cosine, DiffusionModel, MLPDenoiser, Schedule, adam
from agentlib.data import Batches, Examples
from agentlib.data.toys import eight_gaussians
from agentlib.training import Learner, Step, Target, Update, average_rate
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def denoising_losses(model: DiffusionModel, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """|noise - noise_hat(x_t, t)|^2 `(B,)`, the mean over dimensions, at random times.

    Args:
        model: what tells the noise.
        x: `(B, *shape)`, as the data has it.
        condition: `(B, condition_dim)`.
    """
    t = torch.randint(model.noise_steps, (len(x),), device=x.device)
    origin = (x - model.center) / model.scale
    noise = torch.randn_like(origin)
    told: Tensor = model(model.noised(origin, t, noise), t, condition)
    return (told - noise).square().flatten(1).mean(1)


def one_hot(label: Tensor, n_classes: int) -> Tensor:
    """Labels `(B,)` as indicator vectors `(B, n_classes)`."""
    # A comparison, not torch's one_hot: that one inspects the values, which a captured update cannot.
    return (label[:, None] == torch.arange(n_classes, device=label.device)).float()


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """All numbers of a diffusion model's training."""

    learning_rate: Schedule = Cosine(2e-3, 0.0)
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 512
    """Examples per update."""
    noise_steps: int = 200
    """T, the steps between data and noise; with fewer, samples come out too narrow."""
    schedule: Literal["linear", "cosine"] = "cosine"
    """How noise grows with the steps."""
    average: float = 0.999
    """Share of itself that the average of the weights, from which samples come, keeps at each update."""
    conditional: bool = False
    """Tell the model each example's label, so that it can be asked for one."""
    clip: bool = False
    """While sampling, keep to the range of the data."""
    sample_steps: int | None = None
    """Steps of the fast sampler (DDIM) where samples are drawn; None goes through all of T at random."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] = (128, 128, 128)
    """Widths of the denoiser's layers."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size")
        check_range(self, 2, math.inf, "noise_steps")
        check_range(self, 1, self.noise_steps, "sample_steps")
        check_range(self, 0, math.inf, "learning_rate", "max_grad_norm")
        check_range(self, 0, 1, "average")


class Diffusion(Learner):
    """Learns to tell noise from data.

    Args:
        model: the distribution, its data standardized.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
        n_classes: of the labels, for a conditional model.

    Raises:
        ValueError: a conditional model, and no classes.
    """

    def __init__(
        self,
        model: DiffusionModel,
        optimizer: Optimizer,
        config: DiffusionConfig = DiffusionConfig(),
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        if config.conditional and n_classes < 1:
            raise ValueError("a conditional model needs n_classes, the number of labels")
        self.config, self.n_classes = config, n_classes
        self.model, self.average = model, Target(model)
        self.step = Step(model, optimizer, config.max_grad_norm)

    def update(self, batch: Examples) -> Update:
        """One step on the squared error of the noise; `per_sample` holds the errors `(B,)`."""
        condition = None
        if self.config.conditional:
            assert batch.y is not None
            condition = one_hot(batch.y, self.n_classes)
        losses = denoising_losses(self.model, batch.x, condition)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        self.average.follow(self.model, average_rate(self.config.average, batch.clock))
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: eight Gaussians, told apart, two layers of 32."""
        data = eight_gaussians(400)
        config = DiffusionConfig(batch_size=64, noise_steps=20, net_arch=(32, 32), conditional=True, average=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            denoiser = MLPDenoiser((2,), config.net_arch, condition_dim=8)
        model = DiffusionModel(denoiser, (2,), config.noise_steps, config.schedule)
        model.standardize(data.x)
        return cls(model, adam(1e-3), config, n_classes=8), Batches(data, config.batch_size, seed=seed)
