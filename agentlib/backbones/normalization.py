"""Normalization of observations by statistics that travel with the agent."""

from __future__ import annotations

import torch
from torch import Tensor

from agentlib.backbones.base import Backbone, Spec


class RunningNorm(Backbone):
    """Standardizes each number of an observation by its running mean and variance (Welford 1962; Chan et al. 1979).

    The statistics are buffers: they are saved, loaded and copied with the network they belong to. `forward` never
    changes them; `observe` does.

    Args:
        shape: of one observation.
        clip: normalized values are cut to `[-clip, clip]`.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__()
        self.shape, self.clip = tuple(shape), float(clip)
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.feature_dim = int(self.mean.numel())

    @property
    def spec(self) -> Spec:
        return {"name": "running_norm", "arguments": {"shape": list(self.shape), "clip": self.clip}}

    @torch.no_grad()
    def observe(self, observation: Tensor) -> None:
        """Takes observations `(B, *shape)` into the statistics, in place."""
        batch = observation.to(self.mean)
        total = self.count + len(batch)
        shift = batch.mean(0) - self.mean
        squares = self.variance * self.count + batch.var(0, correction=0) * len(batch)
        squares += shift.square() * (self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, observation: Tensor) -> Tensor:
        """`(B, *shape)` in any dtype to `(B, *shape)` float32."""
        scaled = (observation - self.mean) / (self.variance + 1e-8).sqrt()
        return scaled.clamp(-self.clip, self.clip).float()
