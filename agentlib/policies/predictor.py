"""Numbers over a backbone: the model of a regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone
from agentlib.backbones.combine import scale_of
from agentlib.policies.base import Policy


class Predictor(Policy):
    """k numbers for each observation, in the units of the targets.

    prediction = mean + scale (W features + b). With mean and scale those of the training targets, what is learned is of
    order 1, whatever the units. Outputs are `(..., k)`.

    Args:
        backbone: any network with a `feature_dim`.
        outputs: k.
    """

    kind = "predictor"

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone | nn.Module, outputs: int = 1) -> None:
        super().__init__(backbone)
        self.outputs = int(outputs)
        self.head = nn.Linear(self.feature_dim, self.outputs)
        self.register_buffer("mean", torch.zeros(self.outputs))
        self.register_buffer("scale", torch.ones(self.outputs))

    def output_of(self, features: Tensor) -> Tensor:
        prediction: Tensor = self.mean + self.scale * self.head(features)
        return prediction

    def choose(self, output: Tensor) -> Tensor:
        """The prediction itself."""
        return output

    @torch.no_grad()
    def fit_scale(self, targets: Tensor) -> None:
        """Takes mean and standard deviation of targets `(N,)` or `(N, k)`; where all are equal the scale is 1."""
        columns = targets.reshape(len(targets), self.outputs).to(self.mean)
        self.mean.copy_(columns.mean(0))
        self.scale.copy_(scale_of(columns))
