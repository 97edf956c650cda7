"""Wasserstein GAN, its critic kept 1-Lipschitz in one of three ways (Arjovsky et al. 2017, arXiv:1701.07875).

    L_f = E[ f(G(z)) ] - E[ f(x) ]      maximized over 1-Lipschitz f this gap is W1(data, samples)
    L_G = -E[ f(G(z)) ]

`constraint` is "penalty": lambda E[ (|grad f(x_hat)| - 1)^2 ] is added at points x_hat between real and fake examples
(Gulrajani et al. 2017, arXiv:1704.00028); "clip": weights are cut to [-c, c] after each step, which makes f Lipschitz,
with some constant; "spectral": weights are divided by their largest singular values (Miyato et al. 2018,
arXiv:1802.05957), which the critic's networks must be built with. The lecture notes put the penalty at x, and write an
l1 norm of f for the Lipschitz constant. lambda is 10 for images, and 0.1 for points in the plane, as in the authors'
code. No batch normalization in the critic: the penalty is on each example's gradient. With `conditional` both networks
see the label (Mirza & Osindero 2014), and the gap is the mean over labels of the distances of each label's examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from agentlib.backbones import Critic, Generator
from agentlib.core import Learner, Linear, Optimizer, Recipe, Source, Step, Target, Update, at, average_rate
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data import Examples, Splits
from agentlib.data.toys import eight_gaussians
from agentlib.families.generative import GenerativeFacts, on_generative
from agentlib.learners.generative.adversarial import Adversarial, generator_for, noise_for, noisy


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
class WGANConfig(Adversarial):
    """The numbers of a Wasserstein GAN's run."""

    learning_rate: Rate = Linear(1e-3, 0.0)
    adam_betas: tuple[float, float] = (0.0, 0.9)
    batch_size: Count = 256
    """Examples per step of the critic."""
    conditional: bool = False
    """Give both networks each example's label, so that samples can be drawn by label."""
    critic_steps: Count = 5
    """Steps of the critic for each step of the generator."""
    constraint: Literal["penalty", "clip", "spectral"] = "penalty"
    """How the critic is kept Lipschitz."""
    penalty: NonNegative = 10.0
    """Weight of the gradient penalty."""
    clip: NonNegative = 0.01
    """Bound of the critic's weights for constraint="clip"."""
    latent_dim: Count = 2
    average: Unit = 0.99
    instance_noise: Rate = 0.0
    net_arch: tuple[int, ...] = (128, 128, 128)


class WGAN(Learner):
    """A generator against a critic that estimates a distance; see `build` for constraint="spectral"."""

    first_network = staticmethod(generator_for)

    def __init__(
        self, generator: Generator, critic: Critic, optimizer: Optimizer, config: WGANConfig = WGANConfig()
    ) -> None:
        super().__init__()
        self.config, self.batches_per_update = config, config.critic_steps
        self.generator, self.critic, self.average = generator, critic, Target(generator)
        self.generator_step = Step(generator, optimizer, config.max_grad_norm)
        self.critic_step = Step(critic, optimizer, config.max_grad_norm)

    @staticmethod
    def layers(config: WGANConfig) -> dict[str, Any]:
        return {"norm": "spectral" if config.constraint == "spectral" else "none"}

    @classmethod
    def build(cls, backbone: nn.Module, config: WGANConfig, facts: GenerativeFacts) -> Self:
        """A Wasserstein GAN whose critic stands on a backbone.

        Raises:
            ValueError: constraint="spectral", and a backbone without spectral normalization.
        """
        spectral = config.constraint == "spectral"
        weighted = [layer for layer in backbone.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if spectral and not all(is_parametrized(layer, "weight") for layer in weighted):
            raise ValueError(
                'constraint="spectral" needs backbone="auto", or a module that is built with norm="spectral"'
            )
        generator = facts.generator or generator_for(config, facts)
        return cls(generator, Critic(backbone, facts.n_classes, spectral=spectral), config.optimizer(), config)

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
        """Steps of the critic, each on its own batch, then one of the generator."""
        many = self.batches_per_update > 1
        batches = batch.x if many else batch.x[None]  # (n, B, ...)
        labels: Any = [None] * len(batches)
        if self.config.conditional:
            assert batch.y is not None
            labels = batch.y if many else batch.y[None]  # (n, B)

        def seen(x: Tensor) -> Tensor:
            noise = self.config.instance_noise
            return noisy(x, at(noise, batch.clock)) if noise else x

        for real, label in zip(batches.unbind(), labels, strict=True):  # unrolled where it is compiled
            critic: Any = self.critic if label is None else partial(self.critic, label=label)
            real, fake = seen(real), seen(self.generator(noise_for(real, self.generator), label).detach())
            gap = critic(real).mean() - critic(fake).mean()
            critic_loss = -gap
            if self.config.constraint == "penalty":
                critic_loss = critic_loss + self.config.penalty * gradient_penalty(critic, between(real, fake))
            self.critic_step(critic_loss, batch.clock)
            if self.config.constraint == "clip":
                with torch.no_grad():
                    for weight in self.critic.parameters():
                        weight.clamp_(-self.config.clip, self.config.clip)
        generator_loss = -critic(seen(self.generator(noise_for(real, self.generator), label))).mean()
        self.generator_step(generator_loss, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        metrics = {"critic_loss": critic_loss, "generator_loss": generator_loss, "distance": gap}
        return Update({name: value.detach() for name, value in metrics.items()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight Gaussians, two layers of 16, two steps of the critic."""
        sizes: Any = {"learning_rate": 1e-3, "batch_size": 32, "net_arch": (16, 16)}
        config = WGANConfig(critic_steps=2, penalty=0.1, average=0.9, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[eight_gaussians(400)] * 3))


RECIPE = Recipe(
    "wgan",
    WGAN,
    WGANConfig,
    on_generative,
    "Wasserstein GAN (Arjovsky et al. 2017) by gradient penalty, clipping or spectral norm",
    steps=4_000,
    presets={key: {"penalty": 0.1} for key in ("8gaussians", "25gaussians", "swiss_roll", "two_moons")},
)
