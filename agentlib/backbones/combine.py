"""Backbones made of backbones: for categories, for nested observations, and one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Observation
from agentlib.backbones.specs import Spec, described, spec_of


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
