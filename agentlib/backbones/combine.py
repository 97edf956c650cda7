"""Backbones of categories and of numbers of any size, of nested observations, and of backbones one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Observation
from agentlib.backbones.specs import Spec, described, spec_of
from agentlib.core.trees import leaves

LARGEST_TABLE = 1 << 20
"""Observations that a table has room for."""


class OneHot(Backbone):
    """Categories as indicator vectors: Discrete and MultiDiscrete observations.

    Args:
        sizes: number of values of each category.
        start: smallest value of each category; zeros by default.
    """

    kind = "one_hot"

    first: Tensor

    def __init__(self, sizes: Sequence[int], start: Sequence[int] | None = None) -> None:
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        self.start = tuple(int(value) for value in start) if start is not None else (0,) * len(self.sizes)
        self.register_buffer("first", torch.tensor(self.start), persistent=False)
        self.feature_dim = sum(self.sizes)

    def forward(self, observation: Tensor) -> Tensor:
        values = observation.reshape(observation.shape[0], -1).long() - self.first  # (B, number of categories)
        # A comparison, not torch's one_hot: that one inspects the values, which a captured update cannot.
        columns = [values[:, i, None] == torch.arange(size, device=values.device) for i, size in enumerate(self.sizes)]
        return torch.cat(columns, dim=1).float()  # (B, feature_dim)


def scale_of(data: Tensor, correction: int = 0) -> Tensor:
    """The deviation of each number of examples `(N, ...)`, to divide by; 1 where all examples have the same number."""
    return torch.where((data != data[:1]).any(0), data.std(0, correction=correction), 1.0)


class Table(OneHot):
    """One feature for each combination of categories, so that a linear layer on it is a table (Watkins 1989).

    Args:
        sizes: number of values of each category.
        start: smallest value of each category; zeros by default.

    Raises:
        ValueError: more combinations than a table has room for.
    """

    kind = "table"

    stride: Tensor

    def __init__(self, sizes: Sequence[int], start: Sequence[int] | None = None) -> None:
        super().__init__(sizes, start)
        self.feature_dim = math.prod(self.sizes)
        if self.feature_dim > LARGEST_TABLE:
            found = f"{self.feature_dim:,}"
            raise ValueError(f"a table has room for {LARGEST_TABLE:,} observations, and there are {found}: train dqn")
        strides = [math.prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        self.register_buffer("stride", torch.tensor(strides), persistent=False)

    def index(self, observation: Observation) -> Tensor:
        """The number `(B,)` of each observation, from 0."""
        parts = [leaf.reshape(leaf.shape[0], -1).long() for leaf in leaves(observation)]
        return ((torch.cat(parts, dim=1) - self.first) * self.stride).sum(1)

    def forward(self, observation: Observation) -> Tensor:
        index = self.index(observation)
        return (index[:, None] == torch.arange(self.feature_dim, device=index.device)).float()  # (B, feature_dim)


class RunningNorm(Backbone):
    """Standardizes each number of an observation by its running mean and variance (Welford 1962; Chan et al. 1979).

    The statistics are buffers: they are saved, loaded and copied with the network they belong to. `forward` never
    changes them; `observe` does. They stay in float64, whatever the network is converted to: float32 stops counting at
    2^24. A number that has not varied is not scaled: its unit is unknown, and its first change would become a huge one.

    Args:
        shape: of one observation.
        clip: normalized values are cut to `[-clip, clip]`.
    """

    kind = "running_norm"

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def in_float64(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        super()._apply(in_float64, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def observe(self, observation: Tensor) -> None:
        """Takes observations `(B, *shape)` into the statistics, in place."""
        batch = observation.to(self.mean)
        total = self.count + len(batch)
        shift = batch.mean(0) - self.mean
        squares = self.variance * self.count + batch.var(0, correction=0) * len(batch)
        squares += shift.square() * (self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        variance = squares / total
        self.variance.copy_(torch.where(variance > (1e-13 * self.mean).square(), variance, 0.0))  # or it is rounding
        self.count.copy_(total)

    def forward(self, observation: Tensor) -> Tensor:
        """`(B, *shape)` in any dtype to `(B, *shape)` float32."""
        deviation = torch.where(self.variance > 0.0, (self.variance + 1e-8).sqrt(), 1.0)
        scaled = (observation - self.mean) / deviation
        return scaled.clamp(-self.clip, self.clip).float()


class WithContext(Backbone):
    """Features beside the mean of what is read in the other examples of a domain (ARM-CML; Zhang et al. 2021).

        z' = relu(W [z, c] + b),    c the mean of g(z) over the examples of the same domain

    In training mode c is that of the batch. In eval mode it is a buffer: a running mean over the training's batches, or
    the mean over the examples that `agentlib.learners.domains.adaptation.adapt_statistics` was given.

    Args:
        backbone: a network without memory.
        context_dim: numbers in a context.
        momentum: share of a batch in the running mean.
    """

    kind = "with_context"

    mean: Tensor

    def __init__(self, backbone: nn.Module, context_dim: int = 32, momentum: float = 0.1) -> None:
        super().__init__()
        self.backbone, self.context_dim, self.momentum = backbone, int(context_dim), momentum
        self.feature_dim = _width(backbone)
        self.reader = nn.Sequential(nn.Linear(self.feature_dim, 64), nn.ReLU(), nn.Linear(64, self.context_dim))
        self.joint = nn.Linear(self.feature_dim + self.context_dim, self.feature_dim)
        self.register_buffer("mean", torch.zeros(self.context_dim))

    def forward(self, observation: Observation, masks: Tensor | None = None) -> Tensor:
        """`(B, feature_dim)`; `masks` `(D, B)`, of zeros and ones, say which examples are of which domain: one here."""
        features: Tensor = self.backbone(observation)
        context = self.mean.expand(len(features), -1)
        if self.training:
            read = self.reader(features)  # (B, context_dim)
            masks = torch.ones_like(read[:, 0])[None] if masks is None else masks.to(read)
            context = masks.T @ (masks @ read / masks.sum(1, keepdim=True).clamp_min(1.0))
            self.mean.copy_(self.mean + self.momentum * (read.detach().mean(0) - self.mean))
        return torch.relu(self.joint(torch.cat([features, context], 1)))

    def observe(self, observation: Observation) -> None:
        if hasattr(self.backbone, "observe"):
            self.backbone.observe(observation)  # type: ignore[operator]


class Nested(Backbone):
    """One encoder for each part of a Dict or Tuple observation; the features stand side by side.

    Args:
        encoders: a mapping from keys, or a sequence, of backbones; parts of an observation that have no encoder are
            ignored.
    """

    kind = "nested"

    def __init__(self, encoders: Mapping[str, nn.Module] | Sequence[nn.Module]) -> None:
        super().__init__()
        parts = dict(encoders) if isinstance(encoders, Mapping) else dict(enumerate(encoders))
        self.keys: tuple[str | int, ...] = tuple(parts)
        self.encoders = nn.ModuleList(parts.values())
        self.feature_dim = sum(_width(encoder) for encoder in parts.values())

    @property
    def spec(self) -> Spec:
        specs = [spec_of(encoder) for encoder in self.encoders]
        named = all(isinstance(key, str) for key in self.keys)
        return described(self, encoders=dict(zip(self.keys, specs, strict=True)) if named else specs)

    def forward(self, observation: Observation) -> Tensor:
        features = [encoder(observation[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)]
        return torch.cat(features, dim=1)  # (B, feature_dim)

    def observe(self, observation: Observation) -> None:
        for key, encoder in zip(self.keys, self.encoders, strict=True):
            if hasattr(encoder, "observe"):
                encoder.observe(observation[key])  # type: ignore[operator]


class Chain(Backbone):
    """Backbones one after another: an encoder of the observation, then a trunk on its features."""

    kind = "chain"

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.feature_dim = _width(stages[-1])

    def forward(self, observation: Observation) -> Tensor:
        features = observation
        for stage in self.stages:
            features = stage(features)
        return features  # type: ignore[no-any-return]  # (B, feature_dim)

    def observe(self, observation: Observation) -> None:
        if hasattr(self.stages[0], "observe"):
            self.stages[0].observe(observation)  # type: ignore[operator]


def _width(network: nn.Module) -> int:
    return int(network.feature_dim)  # type: ignore[arg-type]
