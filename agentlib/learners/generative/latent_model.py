"""A model with latent codes: p(x, z) = N(z; 0, I) p(x | z), an encoder q(z | x), and their densities."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone, Described, Spec, described

Likelihood = Literal["bernoulli", "gaussian"]


def normal_log_density(x: Tensor, mean: Tensor | float, log_variance: Tensor) -> Tensor:
    """log N(x; mean, diag exp(log_variance)), summed over the last dimension."""
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)).sum(-1)


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) of x in {0, 1}, summed over the last dimension; on grey values it is no likelihood."""
    return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


class LatentModel(Described):
    """p(x, z) = N(z; 0, I) p(x | z) with an encoder q(z | x).

    Args:
        encoder: any backbone; it can be that of an agent afterwards.
        decoder: codes `(B, latent_dim)` to `(B, *shape)`: logits of pixels, or means.
        latent_dim: numbers in z.
        likelihood: "bernoulli" for x in {0, 1}; "gaussian" with one deviation, which is learned.
        deviation: the Gaussian's deviation at the start, or for good with `learn_deviation=False`.
        learn_deviation: whether it is learned.
    """

    kind = "latent_model"

    def __init__(
        self,
        encoder: Backbone | nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 1.0,
        learn_deviation: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder = encoder, decoder
        self.latent_dim, self.likelihood = int(latent_dim), likelihood
        self.head = nn.Linear(int(encoder.feature_dim), 2 * self.latent_dim)  # type: ignore[arg-type]
        learned = likelihood == "gaussian" and learn_deviation
        self.log_deviation = nn.Parameter(torch.tensor(math.log(deviation)), requires_grad=learned)

    @property
    def spec(self) -> Spec:
        return described(self, encoder=self.backbone, deviation=1.0, learn_deviation=self.log_deviation.requires_grad)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), each `(B, latent_dim)`."""
        mean, log_variance = self.head(self.backbone(x)).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z) `(B, *shape)`."""
        output: Tensor = self.decoder(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output

    def reconstruct(self, x: Tensor) -> Tensor:
        """Reconstructions `(B, *shape)` from the means of the codes."""
        return self.decode(self.encode(x)[0])

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) `(k, B)` in nats, for x `(B, ...)` and k codes of each, `(k, B, latent_dim)`."""
        output = self.decoder(z.flatten(0, 1)).flatten(1).unflatten(0, z.shape[:2])  # (k, B, d)
        if self.likelihood == "bernoulli":
            return bernoulli_log_likelihood(output, x.flatten(1))
        return normal_log_density(x.flatten(1), output, (2.0 * self.log_deviation).expand(output.shape[-1]))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)` drawn from the model."""
        like = self.log_deviation
        mean = self.decode(torch.randn(n, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype))
        if self.likelihood == "bernoulli":
            return torch.bernoulli(mean, generator=generator)
        return mean + like.exp() * torch.randn(mean.shape, generator=generator, device=like.device, dtype=like.dtype)
