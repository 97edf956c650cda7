"""Denoising autoencoder (Vincent et al. 2008, doi:10.1145/1390156.1390294; 2010, JMLR 11:3371).

    L = E[ |x - g(f(x + noise))|^2 ],     noise ~ N(0, s^2 I)

The best of all reconstructions of noisy x~ is E[x | x~] = x~ + s^2 grad log p(x~), where p is the density of noisy
examples (Tweedie's formula; Alain & Bengio 2014, arXiv:1211.4246): (g(f(x~)) - x~) / s^2 estimates the score. The best
affine one is the Wiener filter W = C (C + s^2 I)^-1 on centered examples, C their covariance.

The squared error is summed over dimensions. We differ from the papers in squared errors for all data and in a decoder
with weights of its own. With `corruption` "masking" a part of each example is hidden in place of the noise, as in the
first paper; by squares, as masked autoencoders have it (He et al. 2022, arXiv:2111.06377), but with the errors of all
numbers. With "none" the code alone is the bottleneck. `contraction` adds the penalty of contractive autoencoders:

    contraction E| f(x + n) - f(x) |^2 / s^2,   n ~ N(0, s^2 I),   for small s that of |df/dx|^2 (Rifai et al. 2011)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Described, MLPDecoder, Optimized, Spec, described
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Range, Rate, Unit
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.generative import GenerativeFacts, on_generative


def squared_errors(reconstruction: Tensor, x: Tensor) -> Tensor:
    """|x - reconstruction|^2 `(B,)` of examples `(B, ...)`."""
    return (reconstruction - x).flatten(1).square().sum(1)


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the same kind."""
    if generator is None:
        return torch.randn_like(x)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def masked(x: Tensor, ratio: float, patch: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Examples `(B, ...)` whose numbers are 0 with probability `ratio`; or whole squares of images, in all channels."""
    shape = x.shape if patch == 1 else (len(x), 1, -(-x.shape[2] // patch), -(-x.shape[3] // patch))
    shown = torch.rand(shape, generator=generator, dtype=torch.float32, device=x.device) >= ratio
    if patch > 1:
        shown = shown.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[:, :, : x.shape[2], : x.shape[3]]
    return x * shown


def contraction(encode: Callable[[Tensor], Tensor], x: Tensor, noise: float) -> Tensor:
    """E |f(x + n) - f(x)|^2 / s^2, n of deviation s: for a small one the mean of |df/dx|^2, summed over all numbers."""
    return squared_errors(encode(x + noise * torch.randn_like(x)), encode(x)).mean() / noise**2


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
    corruption: Literal["gaussian", "masking", "none"] = "gaussian"
    """Change of examples that is to be undone: noise, a part that is hidden, or none."""
    noise: Annotated[float, Range(1e-6)] = 0.3
    """Deviation of the Gaussian noise that is added to examples, in their units."""
    mask_ratio: Unit = 0.75
    """Share of an example that corruption="masking" hides, by zeros."""
    patch: Count = 1
    """Side of the squares of an image that are hidden whole; 1 hides single numbers."""
    contraction: NonNegative = 0.0
    """Weight of the change of codes by noise of deviation `noise`; more makes codes flat around the examples."""
    latent_dim: Count = 64
    """Size of a code."""
    validation: Annotated[float, Range(0, 0.5)] = 0.15
    """Share of the examples that are held out for evaluation during training; 0 holds out none."""
    net_arch: tuple[int, ...] = (200, 200)
    """Widths of the encoder's hidden layers; the decoder has them in reverse order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corruption == "masking" and not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(
                "DenoisingAutoencoderConfig.mask_ratio must lie between 0 and 1, so that something is hidden and "
                f"something is left, not {self.mask_ratio}"
            )


class DenoisingAutoencoder(Learner):
    """Learns codes and scores by removing noise."""

    def __init__(
        self,
        model: Autoencoder,
        optimizer: Optimizer,
        config: DenoisingAutoencoderConfig = DenoisingAutoencoderConfig(),
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.noise = {"gaussian": config.noise, "none": 0.0}.get(config.corruption)
        self.step = Step(model, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DenoisingAutoencoderConfig, facts: GenerativeFacts) -> Self:
        """A denoising autoencoder with a backbone as its encoder.

        Raises:
            ValueError: squares to be hidden in examples that are no images.
        """
        if config.patch > 1 and len(facts.shape) != 3:
            raise ValueError(f"patch={config.patch} hides squares of images, and an example here is {facts.shape}")
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
        if not self.noise:
            raise ValueError(f'the score is estimated by corruption="gaussian", not by {self.config.corruption!r}')
        score: Tensor = (self.model(x) - x) / self.noise**2
        return score

    def corrupted(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Examples `(B, ...)` with their noise, or in part."""
        if self.config.corruption == "gaussian":
            return x + self.config.noise * normal_like(x, generator)
        return masked(x, self.config.mask_ratio, self.config.patch, generator) if self.noise is None else x

    def update(self, batch: Examples) -> Update:
        """One step on the squared error of reconstructions; `per_sample` holds the errors `(B,)`."""
        losses = squared_errors(self.model(self.corrupted(batch.x)), batch.x)
        loss = losses.mean()
        if self.config.contraction:
            loss = loss + self.config.contraction * contraction(self.model.encode, batch.x, self.config.noise)
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
