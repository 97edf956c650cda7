"""The common parts of adversarial learners: their config, their generator, and its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from agentlib.backbones import Generator, MLPDecoder, Optimized, adam
from agentlib.core import Linear, Rule
from agentlib.core.config import Count, Range, Rate, Unit
from agentlib.families.generative import GenerativeFacts, require_unit


@dataclass(frozen=True, kw_only=True)
class Opposed(Optimized):
    """The common fields of the configs of networks that learn against each other."""

    learning_rate: Rate = 5e-4
    """Learning rate of Adam, for all networks: a number or a schedule."""
    adam_betas: tuple[float, float] = (0.5, 0.99)
    """Adam's decay rates of the averages of gradients and of their squares."""
    average: Unit = 0.995
    """Decay rate of the average of the generator's weights, from which samples come."""
    instance_noise: Rate = Linear(0.1, 0.0)
    """Deviation of the noise that is added to the discriminator's inputs: a number or a schedule."""

    def optimizer(self) -> Rule:
        return adam(self.learning_rate, self.adam_betas) if self.optimizer_name == "adam" else super().optimizer()


@dataclass(frozen=True, kw_only=True)
class Adversarial(Opposed):
    """The common fields of the configs of learners with a generator of samples."""

    latent_dim: Count = 16
    """Size of the generator's noise."""
    net_arch: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of both networks."""


@dataclass(frozen=True, kw_only=True)
class Discriminating(Adversarial):
    """The common fields of the configs of learners with a discriminator."""

    real_target: Annotated[float, Range(0.5, 1)] = 0.9
    """Target probability of real examples in the discriminator's loss."""
    dropout: Unit = 0.3
    """Share of the discriminator's activations that are zeroed in training."""


def noisy(x: Tensor, deviation: float | Tensor) -> Tensor:
    """Examples with instance noise (Sønderby et al. 2017): Gaussian, of this deviation."""
    return x + (deviation * torch.randn_like(x)).to(x.dtype)


def generator_for(config: Adversarial, facts: GenerativeFacts) -> Generator:
    """A generator by layers of `net_arch`; of images its outputs lie between 0 and 1.

    Raises:
        ValueError: images that have numbers outside, which it could never make.
    """
    if len(facts.shape) == 3:
        require_unit(facts.train.x)
    code = config.latent_dim + facts.n_classes
    decoder = MLPDecoder(code, facts.shape, config.net_arch, squash=len(facts.shape) == 3)
    return Generator(decoder, config.latent_dim, facts.n_classes)


def noise_for(x: Tensor, generator: Generator) -> Tensor:
    """The noise z `(B, latent_dim)` of one fake for each real example `(B, ...)`."""
    return torch.randn(len(x), generator.latent_dim, dtype=torch.float32, device=x.device)
