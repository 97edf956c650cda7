"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114).

    ELBO(x) = E_q(z|x)[ log p(x | z) ] - KL( q(z|x) || N(0, I) ),     q(z|x) = N(mu(x), diag sigma(x)^2)
    L = -E[ ELBO(x) ],     z = mu + sigma noise

Sums over dimensions, the mean over the batch: with the mean over pixels, the KL term would weigh as many times too much
as there are pixels. With `importance_samples` k > 1 the loss is the tighter bound of importance weighting (Burda et al.
2016, arXiv:1509.00519); with `beta` other than 1 the KL term is weighed (Higgins et al. 2017). The lecture notes
minimize the ELBO; it is maximized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Backbone, Cosine, MLPDecoder, Schedule, adam
from agentlib.data import Batches, Dataset, Examples
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer

Likelihood = Literal["bernoulli", "gaussian"]


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, diag exp(log_variance)) || N(0, I) ) = (mean^2 + variance - log variance - 1) / 2, summed: `(..., d)`
    to `(...)`.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum(-1)


def normal_log_density(x: Tensor, mean: Tensor | float, log_variance: Tensor) -> Tensor:
    """log N(x; mean, diag exp(log_variance)), summed over the last dimension."""
    return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)).sum(-1)


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) of x in {0, 1}, summed over the last dimension; on grey values it is no likelihood."""
    return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


class LatentModel(nn.Module):
    """p(x, z) = N(z; 0, I) p(x | z) with an encoder q(z | x).

    Args:
        encoder: any backbone; it can be that of an agent afterwards.
        decoder: codes `(B, latent_dim)` to `(B, *shape)`: logits of pixels, or means.
        latent_dim: numbers in z.
        likelihood: "bernoulli" for x in {0, 1}; "gaussian" with one deviation, which is learned.
        deviation: the Gaussian's deviation at the start, or for good with `learn_deviation=False`.
        learn_deviation: whether it is learned.
    """

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

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), each `(B, latent_dim)`."""
        mean, log_variance = self.head(self.backbone(x)).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z) `(B, *shape)`."""
        output: Tensor = self.decoder(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output

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


def bounds(model: LatentModel, x: Tensor, k: int = 1, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Lower bounds `(B,)` of log p(x) in nats, and the KL `(B,)` from the prior to q(z | x).

    For k = 1 the ELBO with its KL in closed form. For k > 1 the importance-weighted bound
    log 1/k sum_i p(x, z_i) / q(z_i | x), which grows with k to log p(x); `beta` does not occur in it.
    """
    mean, log_variance = model.encode(x)
    noise = torch.randn(k, *mean.shape, device=mean.device, dtype=mean.dtype)
    z = mean + (0.5 * log_variance).exp() * noise  # (k, B, latent_dim)
    kl, likelihood = kl_from_standard_normal(mean, log_variance), model.log_likelihood(x, z)  # (B,), (k, B)
    if k == 1:
        return likelihood[0] - beta * kl, kl
    prior = normal_log_density(z, 0.0, torch.zeros_like(log_variance))
    weights = likelihood + prior - normal_log_density(z, mean, log_variance)  # (k, B), logarithms
    return weights.logsumexp(0) - math.log(k), kl


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """All numbers of a VAE's training."""

    learning_rate: Schedule = Cosine(3e-3, 0.0)
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 64
    """Examples per update."""
    latent_dim: int = 16
    """Numbers in a code."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """"bernoulli" for examples of zeros and ones; "gaussian" with one deviation, which is learned."""
    threshold: float | None = None
    """Examples become ones where they are at least this, zeros elsewhere; None leaves them."""
    beta: float = 1.0
    """Weight of the KL term; 1 is the bound."""
    importance_samples: int = 1
    """Codes for each example; more than one for the importance-weighted bound."""
    validation: float = 0.15
    """Share of the examples that are held out to evaluate on while training; 0 for none."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] = (200, 200)
    """Widths of the encoder's layers, and in reverse of the decoder's."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "latent_dim", "importance_samples")
        check_range(self, 0, math.inf, "learning_rate", "beta", "max_grad_norm")
        check_range(self, 0, 0.5, "validation")
        if self.importance_samples > 1 and self.beta != 1.0:
            raise ValueError("VAEConfig.beta weighs the KL term of the ELBO: with importance_samples there is none")


class VAE(Learner):
    """Learns a latent model by its evidence lower bound.

    Args:
        model: encoder and decoder.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
    """

    def __init__(self, model: LatentModel, optimizer: Optimizer, config: VAEConfig = VAEConfig()) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.step = Step(model, optimizer, config.max_grad_norm)

    def update(self, batch: Examples) -> Update:
        """One step up the bound; `per_sample` holds minus the bounds `(B,)`."""
        bound, kl = bounds(self.model, batch.x, self.config.importance_samples, self.config.beta)
        loss = -bound.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "kl": kl.detach().mean(), "grad_norm": norm}
        return Update(metrics, per_sample=-bound.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: bits that agree in groups of four, two codes."""
        bits = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))  # (4, 2)
        groups = bits.repeat_interleave(4, 1).repeat(50, 1)  # (200, 8)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            model = LatentModel(MLP(8, (16,), "tanh"), MLPDecoder(2, (8,), (16,), "tanh"), latent_dim=2)
        config = VAEConfig(batch_size=32, latent_dim=2, likelihood="bernoulli", importance_samples=2)
        return cls(model, adam(3e-3), config), Batches(Dataset(groups), config.batch_size, seed=seed)
