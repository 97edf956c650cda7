"""Masked autoencoder on a vision transformer: most patches of an image are hidden, and predicted from the rest (MAE).

    L = 1/|M| sum_{p in M} |d(f(x without M))_p - (x_p - mean x_p) / std x_p|^2 / k        k numbers in a patch

f sees the visible patches only, which makes it cheap; d is a small transformer that gets their codes, put back in their
places, and one learned token in each place of M (He et al. 2022, arXiv:2111.06377). M is a random share `mask_ratio` of
the patches, for each image its own. Predicting the mean of each patch has the loss (k - 1) / k, and 0 for patches of
one value, such as the empty ones of digits.

Positions of the decoder are learned, where the paper has fixed waves. Features of the class token suit fine-tuning more
than a linear probe. Noise is off by default, as nobody could predict it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Described, ViT
from agentlib.backbones.attention import Layer, Stack
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Range
from agentlib.data import Dataset, Examples
from agentlib.families.views import ViewFacts, Views, on_views


def patches_of(images: Tensor, side: int) -> Tensor:
    """Images `(B, C, H, W)` as patches `(B, P, C * side * side)`, by rows."""
    return functional.unfold(images, side, stride=side).mT


def standardized(patches: Tensor) -> Tensor:
    """Patches `(B, P, k)`, each less its mean and divided by its deviation."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def taken(tokens: Tensor, index: Tensor) -> Tensor:
    """Of tokens `(B, P, d)` those of an index `(B, k)`, `(B, k, d)`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class MAEConfig(Views):
    """The numbers of a run of a masked autoencoder."""

    mask_ratio: Annotated[float, Range(0, 1)] = 0.75
    """Share of the patches that are hidden."""
    decoder_dim: Count = 64
    """Width of the decoder."""
    decoder_layers: Count = 2
    """Layers of the decoder."""
    decoder_heads: Count = 4
    """Heads of the decoder's attention; they divide its width."""
    noise: NonNegative = 0.0


class MaskedAutoencoder(Described):
    """A vision transformer, and a decoder that is thrown away after pretraining.

    Args:
        backbone: the vision transformer.
        mask_ratio: share of the patches that are hidden.
        dim: width of the decoder.
        layers: of the decoder.
        heads: of the decoder; they divide its width.

    Raises:
        ValueError: the ratio hides all patches, or none.
    """

    kind = "masked_autoencoder"

    def __init__(self, backbone: ViT, mask_ratio: float = 0.75, dim: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.backbone, self.mask_ratio, self.dim, self.layers, self.heads = backbone, mask_ratio, dim, layers, heads
        self.patches, side = backbone.grid[0] * backbone.grid[1], backbone.patch
        self.visible, self.first = round(self.patches * (1.0 - mask_ratio)), backbone.positions.shape[1] - self.patches
        if not 0 < self.visible < self.patches:
            least, most = 1.0 / self.patches, 1.0 - 1.0 / self.patches
            left = "nothing to see" if not self.visible else "nothing to predict"
            raise ValueError(
                f"mask_ratio={mask_ratio:g} leaves {left} of {self.patches} patches: give between {least:.3f} and "
                f"{most:.3f}, or a ViT of smaller patches"
            )
        self.narrow, self.mask_token = nn.Linear(backbone.dim, dim), nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.first + self.patches, dim))
        self.decoder = Stack([Layer(dim, heads, 4 * dim, eps=1e-6) for _ in range(layers)])
        self.output = nn.Linear(dim, backbone.layout.channels * side * side)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions of all patches `(B, P, k)`, and which were hidden, `(B, P)` bool, at random."""
        tokens = self.backbone.embed(images)  # (B, first + P, D)
        order = torch.rand(len(tokens), self.patches, dtype=torch.float32, device=tokens.device).argsort(1)
        place = order.argsort(1)  # (B, P): where each patch went
        extra, seen = tokens[:, : self.first], taken(tokens[:, self.first :], order[:, : self.visible])
        codes = self.narrow(self.backbone.stack(torch.cat([extra, seen], 1))[0][-1])  # (B, first + visible, dim)
        hidden = self.mask_token.expand(len(tokens), self.patches - self.visible, -1)
        whole = taken(torch.cat([codes[:, self.first :], hidden], 1), place)  # (B, P, dim)
        decoded = self.decoder(torch.cat([codes[:, : self.first], whole], 1) + self.positions)[0][-1]
        return self.output(decoded[:, self.first :]), place >= self.visible


class MAE(Learner):
    """Features by which hidden patches are predicted."""

    views, auto = 1, "vit"
    is_mean_over_samples = True

    def __init__(self, network: MaskedAutoencoder, optimizer: Optimizer, config: MAEConfig = MAEConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: MAEConfig, facts: ViewFacts) -> Self:
        """A decoder on a vision transformer.

        Raises:
            ValueError: another backbone; or what `MaskedAutoencoder` raises.
        """
        if not isinstance(backbone, ViT):
            kind = type(backbone).__name__
            raise ValueError(f"mae hides patches of a ViT, this is a {kind}: give backbone='vit' and no net_arch")
        sizes = (config.decoder_dim, config.decoder_layers, config.decoder_heads)
        return cls(MaskedAutoencoder(backbone, config.mask_ratio, *sizes), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`, of whole images."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on images `(B, C, H, W)`; `per_sample` holds the loss of each, `(B,)`."""
        prediction, hidden = self.network(batch.x)  # (B, P, k), (B, P)
        backbone = self.network.backbone
        target = standardized(patches_of(backbone.layout(batch.x, prediction.dtype), backbone.patch))
        errors = (prediction - target).square().mean(-1)  # (B, P)
        losses = (errors * hidden).sum(1) / (self.network.patches - self.network.visible)  # (B,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: stripes in 6 x 6 pixels, a ViT of nine patches."""
        sizes: Any = {"batch_size": 16, "decoder_dim": 16, "decoder_layers": 1, "decoder_heads": 2}
        config = MAEConfig(learning_rate=1e-3, shift=0, rotation=0.0, **sizes)
        bars = torch.eye(6)[torch.arange(32) % 6][:, None, :, None].expand(-1, -1, -1, 6).clone()  # (32, 1, 6, 6)
        shape = {"shape": [1, 6, 6], "patch": 2, "dim": 16, "layers": 1, "heads": 2}
        return RECIPE.tiny(cls, config, seed, data=Dataset(bars), backbone={"name": "vit", "arguments": shape})


SUMMARY = "features by which hidden patches are predicted (He et al. 2022), images, a vision transformer"
RECIPE = Recipe("mae", MAE, MAEConfig, on_views, SUMMARY, steps=2_000)
