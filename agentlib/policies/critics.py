"""Values of actions: ensembles of networks Q_i(s, a), of numbers or of quantiles of the return, and Q_i(s, .)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Chain, RunningNorm
from agentlib.backbones.choice import backbone_for
from agentlib.core.trees import leaves, mapped
from agentlib.policies.q_policy import QPolicy

CriticNorm = Literal["none", "layer", "batch_renorm"]


class CriticDropout(nn.Dropout):
    """Dropout that a target network, which is in eval mode, may have too (Hiraoka et al. 2022, algorithm 2)."""

    always = False

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training or self.always)


class BatchRenorm(nn.Module):
    """Batch renormalization (Ioffe 2017, arXiv:1702.03275) of features `(B, width)`.

        y = gain (r (x - m_B) / s_B + d) + shift,    r = clip(s_B / s, 1/3, 3),    d = clip((m_B - m) / s, -5, 5)

    m and s are running means and deviations. For the first `warmup` batches r is 1 and d is 0, which is plain batch
    normalization. Only while it is `counting` does a batch count, as in `Critics.joint`; otherwise m and s take the
    place of m_B and s_B, and stay as they are. The numbers are sb3-contrib's.

    Args:
        width: of the features.
        momentum: share of the way that the statistics move with each batch.
        eps: is added to variances.
        warmup: batches before r and d have an effect.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, width: int, momentum: float = 0.01, eps: float = 1e-3, warmup: int = 100_000) -> None:
        super().__init__()
        self.momentum, self.eps, self.warmup, self.counting = momentum, eps, warmup, False
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        usual = (self.variance + self.eps).sqrt()
        if not self.counting:
            return self.gain * (x - self.mean) / usual + self.shift
        mean, variance = x.mean(0), x.var(0)
        deviation = (variance + self.eps).sqrt()
        with torch.no_grad():
            is_warm = self.count > self.warmup
            r = torch.where(is_warm, (deviation / usual).clamp(1 / 3, 3.0), 1.0)
            d = torch.where(is_warm, ((mean - self.mean) / usual).clamp(-5.0, 5.0), 0.0)
            self.mean.lerp_(mean, self.momentum)
            self.variance.lerp_(variance, self.momentum)
            self.count += 1
        return self.gain * (r * (x - mean) / deviation + d) + self.shift


class Critics(nn.Module):
    """Several critics, each with a network of its own.

    Args:
        backbones: networks of pairs `(observation, action)`; real-valued actions are flat and between -1 and 1, as
            `agentlib.policies.continuous.Bounds.relative` gives them.
        n_quantiles: how many quantiles of the return each gives, at the midpoints of equal shares; None for its mean.
    """

    def __init__(self, backbones: Sequence[nn.Module], n_quantiles: int | None = None) -> None:
        super().__init__()
        self.backbones, self.n_quantiles = nn.ModuleList(backbones), n_quantiles
        widths = [int(backbone.feature_dim) for backbone in backbones]  # type: ignore[arg-type]
        self.heads = nn.ModuleList(nn.Linear(width, n_quantiles or 1) for width in widths)

    @classmethod
    def for_spaces(
        cls,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n_critics: int = 2,
        net_arch: Sequence[int] | None = (256, 256),
        n_quantiles: int | None = None,
        dropout_rate: float = 0.0,
        norm: CriticNorm = "none",
        like: nn.Module | None = None,
    ) -> Critics:
        """Critics for any observations: an encoder of each part, the action beside it, and layers of these widths.

        Real-valued actions are flat and between -1 and 1, discrete ones are indices. Dropout and layer normalization
        come after each linear layer, batch renormalization before each. Observations are standardized by the running
        statistics of the policy `like`, if it keeps any.
        """
        action = action_space
        if isinstance(action, spaces.Box):
            action = spaces.Box(-1.0, 1.0, (int(np.prod(action.shape)),))
        pair, norms = spaces.Tuple((observation_space, action)), [] if like is None else _norms(like)
        networks: list[Any] = [backbone_for(pair, "auto", net_arch, bool(norms)) for _ in range(n_critics)]
        for network in networks:
            encoder, layers = network.stages
            places = _places(encoder.encoders[0])
            if [place[0].shape for place in places] == [one.shape for one in norms]:
                for place, shared in zip(places, norms, strict=True):
                    place[0] = shared
            layers.layers = _prepared(layers.layers, layers.feature_dim, dropout_rate, norm)
        return cls(networks, n_quantiles)

    def forward(self, observation: Any, action: Tensor) -> Tensor:
        """The values `(n, B)` of actions `(B, d)`, by each of the n critics; of quantiles, `(n, B, n_quantiles)`."""
        return torch.stack([self.value(number, observation, action) for number in range(len(self.heads))])

    def value(self, number: int, observation: Any, action: Tensor) -> Tensor:
        """The values `(B,)` by one critic; of quantiles, `(B, n_quantiles)`."""
        values: Tensor = self.heads[number](self.backbones[number]((observation, action)))  # (B, 1 or n_quantiles)
        return values[:, 0] if self.n_quantiles is None else values

    def of_policy(self, policy: Any, observation: Any) -> Tensor:
        """The values `(B,)` of the actions that a policy chooses: the smallest, or the mean of all quantiles."""
        action = policy.bounds.relative(policy.bounds.flat(policy.choose(policy(observation)[0])))
        values: Tensor = self(observation, action)  # (n, B), or (n, B, n_quantiles)
        return values.amin(0) if self.n_quantiles is None else values.mean((0, 2))

    def joint(self, first: Any, second: Any) -> tuple[Tensor, Tensor]:
        """The values of two batches of pairs `(observation, action)`, in one pass over both.

        Batch renormalization takes the statistics of both together, as CrossQ needs it (Bhatt et al. 2024, section 3).
        """
        others, size = iter(leaves(second)), len(first[1])
        layers = [layer for layer in self.modules() if isinstance(layer, BatchRenorm)]
        for layer in layers:
            layer.counting = True
        values = self(*mapped(first, lambda leaf: torch.cat([leaf, next(others)])))
        for layer in layers:
            layer.counting = False
        return values[:, :size], values[:, size:]


class DiscreteCritics(nn.Module):
    """Several critics of all actions at once.

    Args:
        networks: action values of observations.
    """

    def __init__(self, networks: Sequence[QPolicy]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, observation: Any) -> Tensor:
        """The values `(n, B, A)` of each action, by each of the n critics."""
        return torch.stack([network(observation)[0] for network in self.networks])


def smallest(values: Tensor, subset: int | None) -> Tensor:
    """The smallest value `(B,)` by each critic `(n, B)`, or by `subset` of them, drawn at random."""
    if subset is None or subset >= len(values):
        return values.amin(0)
    chosen = torch.rand(len(values), dtype=torch.float32, device=values.device).argsort()[:subset]
    return values[chosen].amin(0)


def without_highest(quantiles: Tensor, drop: int) -> Tensor:
    """The quantiles `(B, K)` of all critics `(n, B, m)` in their order, without the n `drop` highest."""
    pooled = quantiles.transpose(0, 1).flatten(1).sort(1).values  # (B, n m)
    return pooled[:, : pooled.shape[1] - len(quantiles) * drop]


def _prepared(layers: nn.Sequential, width: int, dropout_rate: float, norm: CriticNorm) -> nn.Sequential:
    """Linear layers and activations, with the layers that belong beside each linear one, and before the head."""
    found: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            found.append(layer)
            continue
        before = [BatchRenorm(layer.in_features)] if norm == "batch_renorm" else []
        dropout = [CriticDropout(dropout_rate)] if dropout_rate else []
        after = [nn.LayerNorm(layer.out_features)] if norm == "layer" else []
        found += [*before, layer, *dropout, *after]
    return nn.Sequential(*found, *[BatchRenorm(width)] * (norm == "batch_renorm"))


def _norms(network: nn.Module) -> list[RunningNorm]:
    return [module for module in network.modules() if isinstance(module, RunningNorm)]


def _places(encoder: nn.Module) -> list[nn.ModuleList]:
    """Where an encoder keeps its running statistics."""
    chains = [chain.stages for chain in encoder.modules() if isinstance(chain, Chain)]
    return [stages for stages in chains if isinstance(stages[0], RunningNorm)]
