"""Features from the angle by which an image was turned (RotNet; Gidaris et al. 2018, arXiv:1803.07728).

    L = -1/4 sum_{r=0..3} log p(r | turn(x, 90 r degrees)),     p = softmax(g(f(x)))

Each image is shown in all four orientations. To tell them apart, features have to know which way up things are; on data
whose orientation is random, or for signs that look the same upside down, there is nothing to learn. Guessing has the
loss ln 4. Of raw small digits a linear classifier gets 82% right, so that the accuracy alone says little.

We have a head of one hidden layer in place of the last block of convolutions, which is thrown away as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.data import Dataset, Examples
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread

TURNS = 4


def quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images `(B, C, S, S)` turned counter-clockwise by 0, 90, 180, 270 degrees, `(4B, C, S, S)`, and which `(4B,)`.

    All images come in the first orientation, then all in the next.
    """
    turned = torch.cat([images.rot90(turn, (-2, -1)) for turn in range(TURNS)])
    return turned, torch.arange(TURNS, device=images.device).repeat_interleave(len(images))


@dataclass(frozen=True, kw_only=True)
class RotationConfig(Views):
    """The numbers of a run that predicts rotations; `batch_size` images are shown in four orientations each."""


class Rotation(Learner):
    """Features by which orientations are told apart."""

    views = 1
    is_mean_over_samples = True

    def __init__(self, network: Projector, optimizer: Optimizer, config: RotationConfig = RotationConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: RotationConfig, facts: ViewFacts) -> Self:
        """A head of four outputs on a backbone.

        Raises:
            ValueError: the images are not square.
        """
        height, width = facts.space.shape[-2:]
        if height != width:
            raise ValueError(f"quarter turns need square images, these are {height}x{width}: crop or pad them")
        return cls(Projector(backbone, TURNS), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on images `(B, C, S, S)`; `per_sample` holds the loss of each over its turns `(B,)`."""
        images, turn = quarter_turns(batch.x)
        features = self.network.backbone(images)  # (4B, d)
        logits = self.network.head(features)  # (4B, 4)
        losses = functional.cross_entropy(logits, turn, reduction="none")  # (4B,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        accuracy = (logits.argmax(1) == turn).float().mean()
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "spread": spread(features.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach().view(TURNS, -1).mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: noisy corners in 6 x 6 pixels, an MLP of 16."""
        config = RotationConfig(learning_rate=1e-3, batch_size=16, rotation=0.0)
        corners = torch.zeros(32, 1, 6, 6)
        corners[torch.arange(32), 0, torch.arange(32) % 3, torch.arange(32) % 2] = 1.0
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(corners), backbone=backbone)


SUMMARY = "features that know by which angle an image was turned (Gidaris et al. 2018), images"
PRESETS = {"digits": {"net_arch": (512, 512, 128)}}
RECIPE = Recipe("rotation", Rotation, RotationConfig, on_views, SUMMARY, steps=1_000, presets=PRESETS)
