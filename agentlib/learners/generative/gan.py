"""Generative adversarial networks, plain and conditional (Goodfellow et al. 2014, arXiv:1406.2661).

    L_D = -E[ log s(D(x)) ] - E[ log(1 - s(D(G(z)))) ]       s the sigmoid
    L_G = -E[ log s(D(G(z))) ]                               z ~ N(0, I)

The generator's loss is the paper's non-saturating one. At equilibrium s(D) is 1/2 everywhere: L_D = 2 ln 2 = ln 4, and
L_G = ln 2. A conditional GAN (Mirza & Osindero 2014) tells both networks the label.

Three aids beyond the paper, each a setting: reals are called real with 0.9 instead of 1 (Salimans et al. 2016), noise
that fades is added to what D sees (Sønderby et al. 2017), and samples come from an average of G's weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from agentlib.backbones import MLP, Critic, Generator, Linear, MLPDecoder, Schedule, adam, at
from agentlib.data import Batches, Examples
from agentlib.data.toys import eight_gaussians
from agentlib.training import Learner, Step, Target, Update, average_rate
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def discriminator_loss(real: Tensor, fake: Tensor, target: float = 1.0) -> Tensor:
    """-[t log s(real) + (1 - t) log(1 - s(real))] - log(1 - s(fake)), the mean; log-odds `(B,)`, `target` is t."""
    wanted = torch.full_like(real, target)
    told_real = functional.binary_cross_entropy_with_logits(real, wanted)
    return told_real + functional.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """-log s(fake), the mean: non-saturating; log-odds `(B,)`."""
    return functional.softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class GANConfig:
    """All numbers of a GAN's training."""

    learning_rate: Schedule = 5e-4
    """Step size of Adam, for both networks; a number or a schedule."""
    adam_betas: tuple[float, float] = (0.5, 0.99)
    """How long Adam remembers gradients and their squares."""
    batch_size: int = 64
    """Examples per update."""
    latent_dim: int = 16
    """Numbers in the noise that the generator starts from."""
    conditional: bool = False
    """Tell both networks each example's label, so that the generator can be asked for one."""
    real_target: float = 0.9
    """The probability with which real examples shall be called real."""
    instance_noise: Schedule = Linear(0.1, 0.0)
    """Deviation of the noise that is added to what the discriminator sees; a number or a schedule."""
    dropout: float = 0.3
    """Share of the discriminator's activations that are zeroed."""
    average: float = 0.995
    """Share of itself that the average of the generator's weights keeps at each update."""
    net_arch: tuple[int, ...] = (128, 128)
    """Widths of the layers of both networks."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "latent_dim")
        check_range(self, 0, math.inf, "learning_rate", "instance_noise")
        check_range(self, 0, 1, "average", "dropout")
        check_range(self, 0.5, 1, "real_target")


class GAN(Learner):
    """A generator against a discriminator.

    Args:
        generator: noise, and labels if conditional, to examples.
        discriminator: the log-odds that an example is real.
        optimizer: a rule such as `adam(learning_rate=5e-4, betas=(0.5, 0.99))`.
        config: this algorithm's numbers.
    """

    def __init__(
        self, generator: Generator, discriminator: Critic, optimizer: Optimizer, config: GANConfig = GANConfig()
    ) -> None:
        super().__init__()
        self.config = config
        self.generator, self.discriminator, self.average = generator, discriminator, Target(generator)
        self.generator_step, self.discriminator_step = Step(generator, optimizer), Step(discriminator, optimizer)

    def update(self, batch: Examples) -> Update:
        """One step of the discriminator, then one of the generator."""
        label = batch.y if self.config.conditional else None
        deviation = at(self.config.instance_noise, batch.clock)

        def seen(x: Tensor) -> Tensor:
            blurred: Tensor = self.discriminator(x + (deviation * torch.randn_like(x)).to(x.dtype), label)
            return blurred

        fake = self.generator(self.noise_for(batch.x), label)
        real_height, fake_height = seen(batch.x), seen(fake.detach())
        real_or_fake = discriminator_loss(real_height, fake_height, self.config.real_target)
        self.discriminator_step(real_or_fake, batch.clock)

        deceit = generator_loss(seen(fake))
        self.generator_step(deceit, batch.clock)
        self.average.follow(self.generator, average_rate(self.config.average, batch.clock))
        return Update(
            {
                "discriminator_loss": real_or_fake.detach(),
                "generator_loss": deceit.detach(),
                "real_called_real": (real_height > 0).float().mean(),
                "fake_called_real": (fake_height > 0).float().mean(),
            }
        )

    def noise_for(self, x: Tensor) -> Tensor:
        """z for as many fakes as there are reals."""
        return torch.randn(len(x), self.generator.latent_dim, device=x.device)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: eight Gaussians, told apart, two layers of 16."""
        config = GANConfig(batch_size=32, latent_dim=2, conditional=True, average=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            generator = Generator(MLPDecoder(2 + 8, (2,), (16, 16)), latent_dim=2, n_classes=8)
            discriminator = Critic(MLP(2, (16, 16)), n_classes=8)
        data = eight_gaussians(400)
        return cls(generator, discriminator, adam(1e-3), config), Batches(data, config.batch_size, seed=seed)
