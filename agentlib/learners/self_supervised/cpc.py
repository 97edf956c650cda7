"""Contrastive predictive coding: what comes next is told from what came next elsewhere (CPC).

    L = -log( exp(s_ii) / sum_j exp(s_ij) ),   s_ij = z_j[t+k] . W_k c_i[t] / sqrt(d),   z[t] = g(f(x[t])),  c = GRU(z)
    I(x[t+k]; c[t]) >= ln N - L,   which is ln N at most

x[1] to x[T] are the frames of a window, `(N, T, C, H, W)`; images are read as T bands from top to bottom, each
stretched to the size of the image, so that f takes both. Negatives are the same steps of the other examples of the
batch (van den Oord et al. 2018, arXiv:1807.03748). Where all scores are equal the loss is ln N.

The paper cuts images into overlapping patches, which tell their neighbours by the part that they share; bands do not
overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import GRU
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range
from agentlib.data import Dataset, Examples
from agentlib.data.augmentation import crop
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread


def bands(images: Tensor, pieces: int) -> Tensor:
    """Images `(B, C, H, W)` as bands from top to bottom, each stretched to the whole: `(B, pieces, C, H, W)`."""
    one = torch.ones(len(images), dtype=torch.float32, device=images.device)
    zero = torch.zeros_like(one)
    each = [crop(images, one * (piece / pieces), zero, one / pieces, one) for piece in range(pieces)]
    return torch.stack(each, 1)


def info_nce(scores: Tensor) -> Tensor:
    """-log softmax of the diagonal, `(..., N)`, of scores `(..., N, N)` of each example (rows) with each target."""
    return -scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1)


@dataclass(frozen=True, kw_only=True)
class CPCConfig(Views):
    """The numbers of a CPC run."""

    pieces: Annotated[int, Range(2)] = 4
    """Bands that an image is read in; windows of frames have their own number."""
    ahead: Count = 2
    """Steps that are predicted, from the next one on; fewer than there are bands or frames."""
    projection_dim: Count = 64
    """Width of the codes that are predicted, and of the memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ahead >= self.pieces:
            raise ValueError(f"nothing is {self.ahead} steps ahead among {self.pieces} pieces: give ahead below pieces")


class CPC(Learner):
    """Features by which the next steps are told from those of other examples."""

    views = 1

    def __init__(self, network: Projector, optimizer: Optimizer, config: CPCConfig = CPCConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.memory = GRU(network.dim, network.dim)
        self.heads = nn.ModuleList([nn.Linear(network.dim, network.dim) for _ in range(config.ahead)])
        self.step = Step([network, self.memory, self.heads], optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: CPCConfig, facts: ViewFacts) -> Self:
        return cls(Projector(backbone, config.projection_dim), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The mean of the backbone's features of an image's bands, `(B, feature_dim)`."""
        pieces = bands(x, self.config.pieces)
        features: Tensor = self.network.backbone(pieces.flatten(0, 1))
        return features.view(*pieces.shape[:2], -1).mean(1)

    def update(self, batch: Examples) -> Update:
        """One step on images `(B, C, H, W)` or windows `(B, T, ...)`; `per_sample` holds the loss of each, `(B,)`.

        Raises:
            ValueError: windows that are not longer than what is predicted.
        """
        x = batch.x if batch.x.dim() == 5 else bands(batch.x, self.config.pieces)
        if x.shape[1] <= self.config.ahead:
            raise ValueError(f"nothing is {self.config.ahead} steps ahead in windows of {x.shape[1]}: give longer ones")
        z = self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # (B, T, d)
        context, _ = self.memory(z)  # (B, T, d)
        losses, hits = list[Tensor](), list[Tensor]()
        for k, head in enumerate(self.heads, 1):
            predicted, target = head(context[:, :-k]).movedim(1, 0), z[:, k:].movedim(1, 0)  # (T - k, B, d)
            scores = predicted @ target.mT / math.sqrt(z.shape[2])  # (T - k, B, B)
            losses.append(info_nce(scores).mean(0))  # (B,)
            own = torch.arange(len(z), device=z.device)
            hits.append((scores.argmax(-1) == own).float().mean())
        each = torch.stack(losses).mean(0)  # (B,)
        loss = each.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "information": math.log(len(z)) - loss.detach()}
        metrics |= {"accuracy": torch.stack(hits).mean(), "spread": spread(z.detach().flatten(0, 1)), "grad_norm": norm}
        return Update(metrics, per_sample=each.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four noisy columns in 6 x 6 pixels, read in three bands, an MLP of 16."""
        sizes: Any = {"batch_size": 16, "projection_dim": 8, "pieces": 3, "ahead": 1}
        config = CPCConfig(learning_rate=3e-3, rotation=0.0, shift=0, **sizes)
        columns = torch.eye(6)[1 + torch.arange(32) % 4][:, None, None].expand(-1, -1, 6, -1).clone()  # (32, 1, 6, 6)
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(columns), backbone=backbone)


SUMMARY = "features by which the next part or frame is predicted (van den Oord et al. 2018), images"
PRESETS = {"digits": {"net_arch": (512, 512, 128)}}
RECIPE = Recipe("cpc", CPC, CPCConfig, on_views, SUMMARY, steps=1_000, presets=PRESETS)
