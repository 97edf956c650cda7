"""Wasserstein GAN, its critic kept 1-Lipschitz in one of three ways (Arjovsky et al. 2017, arXiv:1701.07875).

    L_f = E[ f(G(z)) ] - E[ f(x) ]      maximized over 1-Lipschitz f this gap is W1(data, samples)
    L_G = -E[ f(G(z)) ]

`constraint` is "penalty": lambda E[ (|grad f(x_hat)| - 1)^2 ] is added at points x_hat between real and fake examples
(Gulrajani et al. 2017, arXiv:1704.00028); "clip": weights are cut to [-c, c] after each step, which makes f Lipschitz,
with some constant; "spectral": weights are divided by their largest singular values (Miyato et al. 2018,
arXiv:1802.05957), which the critic's networks must be built with. The lecture notes put the penalty at x, and write an
l1 norm of f for the Lipschitz constant. lambda is 10 for images, and 0.1 for points in the plane, as in the authors'
code. No batch normalization in the critic: the penalty is on each example's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from agentlib.backbones import MLP, Critic, Generator, Linear, MLPDecoder, Schedule, adam
from agentlib.data import Batches, Examples
from agentlib.data.toys import eight_gaussians
from agentlib.training import Learner, Step, Target, Update, average_rate
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def between(real: Tensor, fake: Tensor) -> Tensor:
    """A point, uniform on the line, between each real and fake example `(B, ...)`."""
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return share * real + (1.0 - share) * fake


def gradient_penalty(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """E[ (|grad f(x)| - 1)^2 ] at points `(B, ...)`, the norm over each point's numbers; differentiable."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    penalty: Tensor = (slope.flatten(1).norm(dim=1) - 1.0).square().mean()
    return penalty


@dataclass(frozen=True, kw_only=True)
class WGANConfig:
    """All numbers of a Wasserstein GAN's training."""

    learning_rate: Schedule = Linear(1e-3, 0.0)
    """Step size of Adam, for both networks; a number or a schedule."""
    adam_betas: tuple[float, float] = (0.0, 0.9)
    """How long Adam remembers gradients and their squares."""
    batch_size: int = 256
    """Examples per step of the critic."""
    critic_steps: int = 5
    """Steps of the critic for each of the generator."""
    constraint: Literal["penalty", "clip", "spectral"] = "penalty"
    """What keeps the critic Lipschitz."""
    penalty: float = 10.0
    """lambda, the weight of the gradient penalty."""
    clip: float = 0.01
    """c, where weights are clipped."""
    latent_dim: int = 2
    """Numbers in the noise that the generator starts from."""
    average: float = 0.99
    """Share of itself that the average of the generator's weights keeps at each update."""
    net_arch: tuple[int, ...] = (128, 128, 128)
    """Widths of the layers of both networks."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "critic_steps", "latent_dim")
        check_range(self, 0, math.inf, "learning_rate", "penalty", "clip")
        check_range(self, 0, 1, "average")


class WGAN(Learner):
    """A generator against a critic that estimates a distance.

    Args:
        generator: noise to examples.
        critic: its height for each example; built with spectral normalization for that constraint.
        optimizer: a rule such as `adam(learning_rate=1e-3, betas=(0.0, 0.9))`.
        config: this algorithm's numbers.
    """

    def __init__(
        self, generator: Generator, critic: Critic, optimizer: Optimizer, config: WGANConfig = WGANConfig()
    ) -> None:
        super().__init__()
        self.config, self.batches_per_update = config, config.critic_steps
        self.generator, self.critic, self.average = generator, critic, Target(generator)
        self.generator_step, self.critic_step = Step(generator, optimizer), Step(critic, optimizer)

    def update(self, batch: Examples) -> Update:
        """Steps of the critic, each on its own batch, then one of the generator."""
        batches = batch.x if self.batches_per_update > 1 else batch.x[None]  # (n, B, ...)
        for real in batches.unbind():  # unrolled where it is compiled
            fake = self.generator(self.noise_for(real)).detach()
            gap = self.critic(real).mean() - self.critic(fake).mean()
            critic_loss = -gap
            if self.config.constraint == "penalty":
                critic_loss = critic_loss + self.config.penalty * gradient_penalty(self.critic, between(real, fake))
            self.critic_step(critic_loss, batch.clock)
            if self.config.constraint == "clip":
                self.clip()
        generator_loss = -self.critic(self.generator(self.noise_for(real))).mean()
        self.generator_step(generator_loss, batch.clock)
        self.average.follow(self.generator, average_rate(self.config.average, batch.clock))
        metrics = {"critic_loss": critic_loss, "generator_loss": generator_loss, "distance": gap}
        return Update({name: value.detach() for name, value in metrics.items()})

    @torch.no_grad()
    def clip(self) -> None:
        """Cuts the critic's weights to [-c, c]."""
        for weight in self.critic.parameters():
            weight.clamp_(-self.config.clip, self.config.clip)

    def noise_for(self, x: Tensor) -> Tensor:
        """z for as many fakes as there are reals."""
        return torch.randn(len(x), self.generator.latent_dim, device=x.device)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: eight Gaussians, two layers of 16, two steps of the critic."""
        config = WGANConfig(batch_size=32, critic_steps=2, penalty=0.1, average=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            generator = Generator(MLPDecoder(2, (2,), (16, 16)), latent_dim=2)
            critic = Critic(MLP(2, (16, 16)))
        data, n = eight_gaussians(400), config.critic_steps
        source = Batches(data, config.batch_size, batches_per_update=n, seed=seed)
        return cls(generator, critic, adam(1e-3, config.adam_betas), config), source
