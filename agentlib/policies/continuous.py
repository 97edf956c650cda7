"""Real-valued actions: normal distributions, plain or squashed into the bounds, and a deterministic choice.

    plain:     a ~ N(mean, std^2), cut to the bounds where it is executed
    squashed:  u ~ N(mean, std^2),  a = middle + r tanh(u)
               log p(a) = log N(u) - log r - log(1 - tanh^2 u)        (Haarnoja et al. 2018, appendix C)

with r = (high - low) / 2. Numbers of an action without two finite bounds are never squashed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone, Spec, described
from agentlib.core.spaces import space_from_json
from agentlib.metrics.targets import numbers_for
from agentlib.policies.base import Policy, StochasticPolicy

LOG_STD_RANGE = (-20.0, 2.0)
"""Where log standard deviations that depend on the observation are kept, as in SB3's SAC."""
NODES = 64
"""Of the Gauss-Hermite quadrature for the entropy of squashed distributions."""
_LARGEST = 1.0 - 1e-6
"""Largest |tanh u| from which u is computed: an action at its very bound has no finite u."""


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh^2 u), in a form that does not lose all digits for large u."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))


class Bounds(nn.Module):
    """The bounds of a Box, and squashing into them; actions are flat, `(..., d)`."""

    low: Tensor
    high: Tensor
    middle: Tensor
    half_range: Tensor
    bounded: Tensor

    def __init__(self, space: spaces.Box | dict[str, Any]) -> None:
        super().__init__()
        box = space if isinstance(space, spaces.Box) else space_from_json(space)
        if not isinstance(box, spaces.Box):
            raise ValueError(f"real-valued actions need a Box, not {box}")
        self.space, self.shape, self.size = box, box.shape, int(np.prod(box.shape))
        low, high = (np.asarray(side, np.float64).ravel() for side in (box.low, box.high))
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        bottom, top = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        values = {"low": low, "high": high, "middle": (bottom + top) / 2.0, "half_range": (top - bottom) / 2.0}
        # Not persistent: they are in the spec.
        for name, value in values.items():
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)
        self.register_buffer("bounded", torch.from_numpy(bounded), persistent=False)

    def clip(self, action: Tensor) -> Tensor:
        """The nearest action within the bounds."""
        return action.clamp(self.low, self.high)

    def squash(self, u: Tensor) -> Tensor:
        """u to actions; unchanged where there are no bounds."""
        return torch.where(self.bounded, self.middle + self.half_range * u.tanh(), u)

    def unsquash(self, action: Tensor) -> Tensor:
        """The inverse; actions at or beyond a bound count as just within."""
        within = ((action - self.middle) / self.half_range).clamp(-_LARGEST, _LARGEST)
        return torch.where(self.bounded, within.atanh(), action)

    def relative(self, action: Tensor) -> Tensor:
        """Flat actions `(..., d)` in units in which their bounds are -1 and 1."""
        return (action - self.middle) / self.half_range

    def log_slope(self, u: Tensor) -> Tensor:
        """log da/du, `(..., d)`."""
        return torch.where(self.bounded, log_tanh_slope(u) + self.half_range.log(), 0.0)

    def shaped(self, action: Tensor) -> Tensor:
        """`(..., d)` to `(..., *shape)`."""
        return action if len(self.shape) == 1 else action.reshape(*action.shape[:-1], *self.shape)

    def flat(self, action: Tensor) -> Tensor:
        """`(..., *shape)` to `(..., d)`."""
        if len(self.shape) == 1:
            return action
        return action.reshape(*action.shape[: action.dim() - len(self.shape)], self.size)


class GaussianPolicy(StochasticPolicy):
    """Normally distributed actions: Box action spaces.

    Outputs are means and log standard deviations side by side, `(..., 2 d)`; actions `(..., *shape)` are in the Box's
    own units. `sample` and `log_prob` of a plain policy know no bounds; `choose` keeps them.

    Args:
        backbone: any network with a `feature_dim`.
        action_space: a Box, or its description by `space_to_json`.
        squashed: squash actions into the bounds by tanh.
        state_dependent_std: the standard deviation depends on the observation; otherwise it is one parameter for each
            number of an action.
        log_std: log standard deviation at the start, where it does not depend on the observation.
    """

    kind = "gaussian"

    nodes: Tensor
    node_weights: Tensor

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        action_space: spaces.Box | dict[str, Any],
        squashed: bool = False,
        state_dependent_std: bool = False,
        log_std: float = 0.0,
    ) -> None:
        super().__init__(backbone)
        self.bounds = Bounds(action_space)
        self.action_space = self.bounds.space
        self.squashed, self.initial_log_std = bool(squashed), float(log_std)
        size = self.bounds.size
        self.head = nn.Linear(self.feature_dim, size)
        self.log_std_head = nn.Linear(self.feature_dim, size) if state_dependent_std else None
        self.log_std = None if state_dependent_std else nn.Parameter(torch.full((size,), self.initial_log_std))
        # Nodes x and weights w with E[f(X)] = sum w f(x) for X ~ N(0, 1).
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self.register_buffer("nodes", torch.from_numpy(nodes).float(), persistent=False)
        self.register_buffer("node_weights", torch.from_numpy(weights / weights.sum()).float(), persistent=False)

    @property
    def spec(self) -> Spec:
        return described(self, state_dependent_std=self.log_std is None, log_std=self.initial_log_std)

    def output_of(self, features: Tensor) -> Tensor:
        mean = self.head(features)
        if self.log_std_head is not None:
            log_std = self.log_std_head(features).clamp(*LOG_STD_RANGE)
        else:
            assert self.log_std is not None
            log_std = self.log_std.expand_as(mean)
        return torch.cat([mean, log_std], dim=-1)

    def mean_and_log_std(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Of the normal distribution, before any squashing, each `(..., d)`."""
        mean, log_std = output.chunk(2, dim=-1)
        return mean, log_std

    def choose(self, output: Tensor) -> Tensor:
        """The mode, cut to the bounds; squashed: the median, which is the squashed mean."""
        mean, _ = self.mean_and_log_std(output)
        return self.bounds.shaped(self.bounds.clip(self.bounds.squash(mean) if self.squashed else mean))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions drawn so that gradients flow back into the output."""
        mean, log_std = self.mean_and_log_std(output)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        u = mean + log_std.exp() * noise
        return self.bounds.shaped(self.bounds.squash(u) if self.squashed else u)

    def relative_sample(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Squashed actions as `Bounds.relative` has them, `(..., d)`, and their log-densities `(...)` in these units.

        Gradients flow back into the output. The densities do not depend on the bounds, and are exact for actions of
        any size, since they are computed from the numbers before squashing.
        """
        mean, log_std = self.mean_and_log_std(output)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - log_tanh_slope(u)  # (..., d)
        return u.tanh(), density.sum(-1)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self.mean_and_log_std(output)
        flat = numbers_for(mean, action).to(mean.dtype)
        u = self.bounds.unsquash(flat) if self.squashed else flat
        z = (u - mean) * (-log_std).exp()
        density = -0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)  # (..., d)
        return (density - self.bounds.log_slope(u) if self.squashed else density).sum(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """Entropy `(...)` in nats; exact when plain, by quadrature of E[log da/du] when squashed."""
        mean, log_std = self.mean_and_log_std(output)
        entropy = log_std + 0.5 * (1.0 + math.log(2.0 * math.pi))  # (..., d)
        if self.squashed:
            u = mean.unsqueeze(-2) + log_std.exp().unsqueeze(-2) * self.nodes[:, None]  # (..., nodes, d)
            entropy = entropy + (self.bounds.log_slope(u) * self.node_weights[:, None]).sum(-2)
        return entropy.sum(-1)


class DeterministicPolicy(Policy):
    """One real-valued action and no distribution: Box action spaces. Outputs are flat actions `(..., d)`.

    Args:
        backbone: any network with a `feature_dim`.
        action_space: a Box, or its description by `space_to_json`.
        squashed: squash actions into the bounds by tanh, as TD3 does (Fujimoto et al. 2018); otherwise they are cut.
        limit: what is squashed is first cut to `[-limit, limit]`; None leaves it.
    """

    kind = "deterministic"

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        action_space: spaces.Box | dict[str, Any],
        squashed: bool = False,
        limit: float | None = None,
    ) -> None:
        super().__init__(backbone)
        self.bounds, self.squashed = Bounds(action_space), bool(squashed)
        self.action_space = self.bounds.space
        self.limit = None if limit is None else float(limit)
        self.head = nn.Linear(self.feature_dim, self.bounds.size)

    def output_of(self, features: Tensor) -> Tensor:
        action: Tensor = self.head(features)
        if not self.squashed:
            return action
        return self.bounds.squash(action if self.limit is None else action.clamp(-self.limit, self.limit))

    def choose(self, output: Tensor) -> Tensor:
        """The actions `(..., *shape)`, cut to the bounds."""
        return self.bounds.shaped(self.bounds.clip(output))
