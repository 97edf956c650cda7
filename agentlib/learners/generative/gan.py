"""Generative adversarial networks, plain and conditional (Goodfellow et al. 2014, arXiv:1406.2661).

    L_D = -E[ log s(D(x)) ] - E[ log(1 - s(D(G(z)))) ]       s the sigmoid
    L_G = -E[ log s(D(G(z))) ]                               z ~ N(0, I)

The generator's loss is the paper's non-saturating one. At equilibrium s(D) is 1/2 everywhere: L_D = 2 ln 2 = ln 4, and
L_G = ln 2. In a conditional GAN (Mirza & Osindero 2014) both networks see the label.

Three aids beyond the paper, each a setting: the target for real examples is 0.9 instead of 1 (Salimans et al. 2016),
fading noise is added to the inputs of D (Sønderby et al. 2017), and samples come from an average of G's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Critic, Generator
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Target, Update, at, average_rate
from agentlib.data import Examples, Splits
from agentlib.data.toys import eight_gaussians
from agentlib.families.generative import GenerativeFacts, on_generative
from agentlib.learners.generative.adversarial import Discriminating, generator_for, noise_for, noisy


def discriminator_loss(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """-[t log s(real) + (1 - t) log(1 - s(real))] - log(1 - s(fake)), the mean; log-odds `(B,)`, `target` is t."""
    on_real = functional.binary_cross_entropy_with_logits(real, torch.full_like(real, target))
    return on_real + functional.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log s(fake), the mean: non-saturating; log-odds `(B,)`."""
    return functional.softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class GANConfig(Discriminating):
    """The numbers of a GAN's run."""

    conditional: bool = False
    """Give both networks each example's label, so that samples can be drawn by label."""


class GAN(Learner):
    """A generator against a discriminator, which gives the log-odds that an example is real."""

    first_network = staticmethod(generator_for)

    def __init__(
        self, generator: Generator, discriminator: Critic, optimizer: Optimizer, config: GANConfig = GANConfig()
    ) -> None:
        super().__init__()
        self.config = config
        self.generator, self.discriminator, self.average = generator, discriminator, Target(generator)
        self.generator_step = Step(generator, optimizer, config.max_grad_norm)
        self.discriminator_step = Step(discriminator, optimizer, config.max_grad_norm)

    @staticmethod
    def layers(config: GANConfig) -> dict[str, Any]:
        return {"activation": "leaky_relu" if config.dropout else "relu", "dropout": config.dropout}

    @classmethod
    def build(cls, backbone: nn.Module, config: GANConfig, facts: GenerativeFacts) -> Self:
        """A GAN whose discriminator stands on a backbone."""
        generator = facts.generator or generator_for(config, facts)
        return cls(generator, Critic(backbone, facts.n_classes), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        """The averaged generator."""
        return self.average.network

    def sample(self, n: int, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)` by the averaged generator."""
        network: Any = self.average.network
        samples: Tensor = network.sample(n, label, generator=generator)
        return samples

    def update(self, batch: Examples) -> Update:
        """One step of the discriminator, then one of the generator."""
        label = batch.y if self.config.conditional else None
        deviation = at(self.config.instance_noise, batch.clock)

        def log_odds(x: Tensor) -> Tensor:
            odds: Tensor = self.discriminator(noisy(x, deviation), label)
            return odds

        fake = self.generator(noise_for(batch.x, self.generator), label)
        on_real, on_fake = log_odds(batch.x), log_odds(fake.detach())
        loss = discriminator_loss(on_real, on_fake, self.config.real_target)
        self.discriminator_step(loss, batch.clock)

        deceit = generator_loss(log_odds(fake))
        self.generator_step(deceit, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        return Update(
            {
                "discriminator_loss": loss.detach(),
                "generator_loss": deceit.detach(),
                "real_called_real": (on_real > 0).float().mean(),
                "fake_called_real": (on_fake > 0).float().mean(),
            }
        )

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight Gaussians by label, two layers of 16."""
        sizes: Any = {"learning_rate": 1e-3, "batch_size": 32, "latent_dim": 2, "net_arch": (16, 16)}
        config = GANConfig(adam_betas=(0.9, 0.999), conditional=True, average=0.9, dropout=0.0, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[eight_gaussians(400)] * 3))


RECIPE = Recipe(
    "gan",
    GAN,
    GANConfig,
    on_generative,
    "generative adversarial network (Goodfellow et al. 2014), plain or conditional",
    steps=6_000,
    presets={"digits": {"conditional": True}},
)
