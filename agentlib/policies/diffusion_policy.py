"""Real-valued actions by diffusion: any distribution, also one of several separate ways to act (Chi et al. 2023,
arXiv:2303.04137).

    x_T = noise;   x_{t-1} from x_t and the noise predicted in x_t, given the observation;   a = x_0

We differ from the paper in predicting one action at a time, not a sequence of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import Backbone, DiffusionModel, MLPDenoiser
from agentlib.policies.base import Policy
from agentlib.policies.continuous import Bounds

CANDIDATES = 16
"""Samples that `choose` picks from."""
BANDWIDTH = 0.25
"""Of the density by which it picks, in deviations of the actions."""


class DiffusionPolicy(Policy):
    """Actions taken out of noise: Box action spaces. Outputs are the backbone's features.

    `sample` starts from fresh noise, so that an observation with two right actions gets now the one, now the other.
    `choose` takes that one of `CANDIDATES` samples, always from the same noise, around which the others lie densest: a
    mode, and never the mean of two. There is no density: it learns by the error of the noise
    (`agentlib.learners.DiffusionBC`).

    Args:
        backbone: any network with a `feature_dim`.
        action_space: a Box, or its description by `space_to_json`.
        hidden: widths of the denoiser's layers.
        noise_steps: T, the steps between actions and noise in training.
        sample_steps: of the fast sampler, while acting.
    """

    kind = "diffusion_policy"

    is_stochastic = True
    candidates: Tensor

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        action_space: spaces.Box | dict[str, Any],
        hidden: Sequence[int] = (128, 128, 128),
        noise_steps: int = 50,
        sample_steps: int = 10,
    ) -> None:
        super().__init__(backbone)
        self.bounds = Bounds(action_space)
        self.action_space, self.hidden = self.bounds.space, tuple(hidden)
        self.noise_steps, self.sample_steps = int(noise_steps), int(sample_steps)
        shape = (self.bounds.size,)
        denoiser = MLPDenoiser(shape, self.hidden, condition_dim=self.feature_dim)
        self.model = DiffusionModel(denoiser, shape, noise_steps, clip=True)
        self.register_buffer("candidates", torch.randn(CANDIDATES, *shape))

    def output_of(self, features: Tensor) -> Tensor:
        return features

    def choose(self, output: Tensor) -> Tensor:
        """Actions `(..., *shape)`, a mode for each output; the same each time."""
        flat = output.reshape(-1, output.shape[-1])  # (B, feature_dim)
        n, size = CANDIDATES, self.bounds.size
        count = flat.shape[0]
        noise = self.candidates.repeat(count, 1)  # (B n, d)
        actions = self._denoised(flat.repeat_interleave(n, 0), noise).unflatten(0, (count, n))  # (B, n, d)
        distance = (actions[:, :, None] - actions[:, None]) / (BANDWIDTH * self.model.scale[0])  # (B, n, n, d)
        densest = (-0.5 * distance.square().sum(-1)).exp().sum(-1).argmax(1)  # (B,)
        best = actions[torch.arange(count, device=flat.device), densest]
        return self.bounds.shaped(best.view(*output.shape[:-1], size))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions `(..., *shape)` from fresh noise."""
        shape = (*output.shape[:-1], self.bounds.size)
        noise = torch.randn(shape, generator=generator, dtype=self.candidates.dtype, device=output.device)
        actions = self._denoised(output.reshape(-1, output.shape[-1]), noise.reshape(-1, self.bounds.size))
        return self.bounds.shaped(actions.view(shape))

    def _denoised(self, features: Tensor, noise: Tensor) -> Tensor:
        """Flat actions `(B, d)` within the bounds."""
        return self.bounds.clip(self.model.sample(noise.shape[0], features, steps=self.sample_steps, noise=noise))
