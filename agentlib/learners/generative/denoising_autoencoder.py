"""Denoising autoencoder (Vincent et al. 2008, doi:10.1145/1390156.1390294; 2010, JMLR 11:3371).

    L = E[ |x - g(f(x + noise))|^2 ],     noise ~ N(0, s^2 I)

The best of all reconstructions of noisy x~ is E[x | x~] = x~ + s^2 grad log p(x~), where p is the density of noisy
examples (Tweedie's formula; Alain & Bengio 2014, arXiv:1211.4246): (g(f(x~)) - x~) / s^2 estimates the score. The best
affine one is the Wiener filter W = C (C + s^2 I)^-1 on centered examples, C their covariance.

The squared error is summed over dimensions. We differ from the papers in using Gaussian noise only (they also mask and
use salt and pepper), squared errors for all data, and a decoder with weights of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Described, MLPDecoder, Optimized, Spec, described
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range, Rate
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.generative import GenerativeFacts, on_generative


def squared_errors(reconstruction: Tensor, x: Tensor) -> Tensor:
    """|x - reconstruction|^2 `(B,)` of examples `(B, ...)`."""
    return (reconstruction - x).flatten(1).square().sum(1)


class Autoencoder(Described):
    """x to g(f(x)): an encoder, a linear layer to codes, and a decoder.

    Args:
        encoder: any backbone.
        decoder: codes `(B, latent_dim)` to examples `(B, *shape)`.
        latent_dim: size of a code.
    """

    kind = "autoencoder"

    def __init__(self, encoder: Backbone | nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.backbone, self.decoder, self.latent_dim = encoder, decoder, int(latent_dim)
        self.head = nn.Linear(int(encoder.feature_dim), latent_dim)  # type: ignore[arg-type]

    @property
    def spec(self) -> Spec:
        return described(self, encoder=self.backbone)

    def encode(self, x: Tensor) -> Tensor:
        """Codes `(B, latent_dim)`."""
        codes: Tensor = self.head(self.backbone(x))
        return codes

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions `(B, *shape)`."""
        reconstruction: Tensor = self.decoder(self.encode(x))
        return reconstruction

    reconstruct = forward


@dataclass(frozen=True, kw_only=True)
class DenoisingAutoencoderConfig(Optimized):
    """The numbers of a denoising autoencoder's run."""

    learning_rate: Rate = Cosine(2e-3, 0.0)
    noise: Annotated[float, Range(1e-6)] = 0.3
    """Deviation of the Gaussian noise that is added to examples, in their units."""
    latent_dim: Count = 64
    """Size of a code."""
    validation: Annotated[float, Range(0, 0.5)] = 0.15
    """Share of the examples that are held out for evaluation during training; 0 holds out none."""
    net_arch: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder has them in reverse order."""


class DenoisingAutoencoder(Learner):
    """Learns codes and scores by removing noise."""

    def __init__(
        self,
        model: Autoencoder,
        optimizer: Optimizer,
        config: DenoisingAutoencoderConfig = DenoisingAutoencoderConfig(),
    ) -> None:
        super().__init__()
        self.model, self.config, self.noise = model, config, config.noise
        self.step = Step(model, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DenoisingAutoencoderConfig, facts: GenerativeFacts) -> Self:
        """A denoising autoencoder with a backbone as its encoder."""
        decoder = MLPDecoder(config.latent_dim, facts.shape, config.net_arch[::-1])
        return cls(Autoencoder(backbone, decoder, config.latent_dim), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def predict(self, x: Tensor) -> Tensor:
        """Reconstructions `(B, *shape)` of noisy examples."""
        reconstruction: Tensor = self.model(x)
        return reconstruction

    def score(self, x: Tensor) -> Tensor:
        """The estimated gradient (r(x) - x) / s^2 `(B, *shape)` of the log density of noisy examples."""
        score: Tensor = (self.model(x) - x) / self.noise**2
        return score

    def update(self, batch: Examples) -> Update:
        """One step on the squared error of reconstructions; `per_sample` holds the errors `(B,)`."""
        losses = squared_errors(self.model(batch.x + self.noise * torch.randn_like(batch.x)), batch.x)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: points on a line in four dimensions, two codes."""
        position = torch.randn(128, 1, generator=torch.Generator().manual_seed(0))
        data = Dataset(position @ torch.tensor([[1.0, -2.0, 0.5, 1.0]]))  # (128, 4)
        config = DenoisingAutoencoderConfig(learning_rate=5e-3, batch_size=32, latent_dim=2, net_arch=(16,))
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data))


RECIPE = Recipe(
    "denoising_autoencoder",
    DenoisingAutoencoder,
    DenoisingAutoencoderConfig,
    on_generative,
    "denoising autoencoder (Vincent et al. 2008): codes and scores by removing noise",
    steps=5_000,
)
