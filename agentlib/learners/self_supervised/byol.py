"""Bootstrap your own latent: features of one view predict an average network's projection of the other view (BYOL).

    L = 2 - 2 cos( q(z), z' ),     z = g(f(v)),  z' = g'(f'(v')),     (f', g') <- tau (f', g') + (1 - tau) (f, g)

The mean goes over both orders of the two views v and v' (Grill et al. 2020, arXiv:2006.07733). Nothing pushes images
apart: the predictor q, which the average lacks, and the average's slowness keep the features from collapsing, where the
loss would be 0. So a low loss is no success; `spread` is: 1 for directions that fill the sphere, 0 for a collapse.

As in the paper, BatchNorm stands in encoder and heads: with LayerNorm, or none, features of small digits were worse
than untrained ones. We differ in Adam in place of LARS, and in a constant tau in place of a rising one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Learner, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, Unit
from agentlib.data import Dataset, Examples
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread


def prediction_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos(p, t), `(...)` in [0, 4], of predictions and targets `(..., d)`."""
    return 2.0 - 2.0 * functional.cosine_similarity(prediction, target, dim=-1)


@dataclass(frozen=True, kw_only=True)
class BYOLConfig(Views):
    """The numbers of a BYOL run."""

    tau: Unit = 0.95
    """Share of itself that the average network keeps at each update."""
    projection_dim: Count = 64
    """Width of the projections that are predicted."""
    hidden_dim: Count = 256
    """Width of the predictor's hidden layer."""


class BYOL(Learner):
    """Features that predict their own average; the predictor maps projections to projections."""

    def __init__(self, network: Projector, predictor: nn.Module, config: BYOLConfig) -> None:
        super().__init__()
        self.config, self.network, self.predictor = config, network, predictor
        self.average = Target(network, tau=1.0 - config.tau)
        self.step = Step([network, predictor], config.optimizer(), config.max_grad_norm)

    @staticmethod
    def layers(config: BYOLConfig) -> dict[str, Any]:
        """The encoder's layers have BatchNorm."""
        return {"norm": "batch"}

    @classmethod
    def build(cls, backbone: nn.Module, config: BYOLConfig, facts: ViewFacts) -> Self:
        d, hidden = config.projection_dim, config.hidden_dim
        predictor = nn.Sequential(nn.Linear(d, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, d))
        return cls(Projector(backbone, d, batch_norm=True), predictor, config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on two views `(2, N, ...)`; `per_sample` holds the error of each image `(N,)`."""
        with torch.no_grad():
            targets = torch.stack([self.average(view) for view in batch.x.flip(0)])  # (2, N, d), of the other view
        z = torch.stack([self.network(view) for view in batch.x])  # (2, N, d), batch statistics of each view
        errors = prediction_errors(torch.stack([self.predictor(one) for one in z]), targets)  # (2, N)
        loss = errors.mean()
        norm = self.step(loss, batch.clock)
        self.average.follow()
        metrics = {"loss": loss.detach(), "spread": spread(z.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=errors.detach().mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four noisy bars in 6 x 6 pixels, an MLP of 16."""
        config = BYOLConfig(learning_rate=1e-3, batch_size=16, projection_dim=8, hidden_dim=16, rotation=0.0)
        bars = torch.eye(6)[1 + torch.arange(32) % 4][:, None, :, None].expand(-1, -1, -1, 6).clone()  # (32, 1, 6, 6)
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(bars), backbone=backbone)


DIGITS = {"net_arch": (512, 512, 128)}
SUMMARY = "features that predict their own average (Grill et al. 2020), images"
RECIPE = Recipe("byol", BYOL, BYOLConfig, on_views, SUMMARY, steps=1_000, presets={"digits": DIGITS})
