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
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import MLPDecoder
from agentlib.backbones.combine import scale_of
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Range, Rate
from agentlib.data import Dataset, Examples, Splits
from agentlib.data.batches import Transform
from agentlib.families.generative import GenerativeFacts, on_generative
from agentlib.learners.generative.bits import Bits
from agentlib.learners.generative.latent_model import LatentModel, normal_log_density
from agentlib.metrics.likelihoods import LARGEST, independent_bernoulli, probabilistic_pca


def kl_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL( N(mean, diag exp(log_variance)) || N(0, I) ) = (mean^2 + variance - log variance - 1) / 2, summed: `(..., d)`
    to `(...)`.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum(-1)


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
class VAEConfig(Bits):
    """The numbers of a VAE's run."""

    learning_rate: Rate = Cosine(3e-3, 0.0)
    latent_dim: Count = 16
    """Size of a code."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Distribution of examples given codes: "bernoulli" for zeros and ones; "gaussian" with one learned deviation."""
    beta: NonNegative = 1.0
    """Weight of the KL term; 1 gives the evidence lower bound."""
    importance_samples: Count = 1
    """Codes per example; more than one optimizes the importance-weighted bound."""
    validation: Annotated[float, Range(0, 0.5)] = 0.15
    """Share of the examples that are held out for evaluation during training; 0 holds out none."""
    net_arch: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder has them in reverse order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance_samples > 1 and self.beta != 1.0:
            raise ValueError("VAEConfig.beta weighs the KL term of the ELBO: with importance_samples there is none")


class VAE(Learner):
    """Learns a latent model by its evidence lower bound."""

    is_mean_over_samples = True

    def __init__(self, model: LatentModel, optimizer: Optimizer, config: VAEConfig = VAEConfig()) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def examples(data: Dataset, config: VAEConfig) -> Dataset:
        """The examples after the threshold, as `Bits.bits` has it."""
        return config.bits(data, "gaussian")

    @staticmethod
    def transform(config: VAEConfig) -> Transform | None:
        """The random change of an example each time that it is seen."""
        return config.transform

    @staticmethod
    def layers(config: VAEConfig) -> dict[str, Any]:
        return {"activation": "tanh"}

    @classmethod
    def build(cls, backbone: nn.Module, config: VAEConfig, facts: GenerativeFacts) -> Self:
        """A VAE with a backbone as its encoder; a Gaussian's deviation starts at that of the data."""
        decoder = MLPDecoder(config.latent_dim, facts.shape, config.net_arch[::-1], "tanh")
        deviation = 1.0 if config.likelihood == "bernoulli" else float(scale_of(facts.train.x.flatten(), 1))
        model = LatentModel(backbone, decoder, config.latent_dim, config.likelihood, deviation)
        return cls(model, config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def predict(self, x: Tensor) -> Tensor:
        """Reconstructions `(B, *shape)` from the means of the codes."""
        return self.model.reconstruct(x)

    def likelihoods(self, x: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """A lower bound of log p(x) `(B,)` in nats by k codes, and the KL term `(B,)`."""
        return bounds(self.model, x, k)

    def likelihood_floor(self, train: Tensor, test: Tensor) -> tuple[Tensor, str] | None:
        """log p(x) `(N,)` of test examples under the best model without a network, and its name."""
        if self.config.likelihood == "bernoulli":
            return independent_bernoulli(train, test), "independent pixels"
        k = self.config.latent_dim
        if not k < train[0].numel() <= LARGEST:
            return None
        return probabilistic_pca(train, test, k), f"the best linear model with {k} codes"

    def sample(self, n: int, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)`."""
        return self.model.sample(n, generator=generator)

    def update(self, batch: Examples) -> Update:
        """One step up the bound; `per_sample` holds minus the bounds `(B,)`."""
        bound, kl = bounds(self.model, batch.x, self.config.importance_samples, self.config.beta)
        loss = -bound.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "kl": kl.detach().mean(), "grad_norm": norm}
        return Update(metrics, per_sample=-bound.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: bits that agree in groups of four, two codes."""
        bits = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))  # (4, 2)
        data = Dataset(bits.repeat_interleave(4, 1).repeat(50, 1))  # (200, 8)
        sizes: Any = {"learning_rate": 3e-3, "batch_size": 32, "latent_dim": 2, "net_arch": (16,)}
        config = VAEConfig(likelihood="bernoulli", importance_samples=2, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data))


RECIPE = Recipe(
    "vae",
    VAE,
    VAEConfig,
    on_generative,
    "variational autoencoder (Kingma & Welling 2014): codes, likelihoods, samples",
    steps=5_000,
    presets={
        "digits": {"likelihood": "bernoulli", "threshold": 0.5, "validation": 0.0, "steps": 4_000},
    },
)
