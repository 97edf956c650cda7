"""Generalized state-dependent exploration, gSDE (Raffin et al. 2022, arXiv:2005.05719).

    a = mean(s) + x(s)^T theta,     theta_ij ~ N(0, sigma_ij^2),     x(s): the features under the head
    p(a | s) = N(mean(s), sum_j x_j(s)^2 sigma_ij^2)

theta stays the same for several steps, so that the noise of an action changes with the state, not at each step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.backbones import Backbone
from agentlib.core.modes import in_eval_mode
from agentlib.core.spaces import to_tensors
from agentlib.policies.continuous import GaussianPolicy
from agentlib.policies.exploring import SampledActor

EPSILON = 1e-6
"""Added to variances, as SB3 does."""
LARGEST_MEAN = 2.0
"""Of squashed actions, before they are squashed; SB3's `clip_mean`."""


class StateDependentNoisePolicy(GaussianPolicy):
    """Normally distributed actions whose deviation depends on the features, with one parameter for each pair of both.

    `sample` draws for each action as if theta were drawn for it alone. When squashed, as in SAC, means are cut and the
    features learn from the noise, too; else they do not. Both are SB3's ways.

    Args:
        backbone: any network with a `feature_dim`.
        action_space: a Box, or its description by `space_to_json`.
        squashed: squash actions into the bounds by tanh.
        log_std: log sigma at the start.
    """

    kind = "state_dependent_noise"

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        action_space: spaces.Box | dict[str, Any],
        squashed: bool = False,
        log_std: float = 0.0,
    ) -> None:
        super().__init__(backbone, action_space, squashed, log_std=log_std)
        self.log_std = nn.Parameter(torch.full((self.feature_dim, self.bounds.size), self.initial_log_std))

    def output_of(self, features: Tensor) -> Tensor:
        assert self.log_std is not None
        mean, noisy = self.head(features), features
        if self.squashed:
            mean = mean.clamp(-LARGEST_MEAN, LARGEST_MEAN)
        else:
            noisy = features.detach()
        variance = noisy.square() @ (2.0 * self.log_std).exp()  # (..., d)
        return torch.cat([mean, 0.5 * (variance + EPSILON).log()], dim=-1)

    def sample_with(self, features: Tensor, theta: Tensor) -> Tensor:
        """Actions `(B, *shape)` for features `(B, n)` and matrices of noise theta `(B, n, d)`."""
        mean, _ = self.mean_and_log_std(self.output_of(features))
        u = mean + (features.unsqueeze(1) @ theta).squeeze(1)
        return self.bounds.shaped(self.bounds.squash(u) if self.squashed else u)


class NoiseMatrices:
    """The matrices theta of a policy's noise, one for each environment, which stay the same for a while.

    Args:
        policy: a `StateDependentNoisePolicy`.
        num_envs: environments side by side.
        rollout_length: steps of a rollout; each begins with other matrices.
        sample_freq: steps after which matrices are drawn within a rollout; -1 draws none there.
        seed: of its own generator.
    """

    def __init__(
        self,
        policy: StateDependentNoisePolicy,
        num_envs: int,
        rollout_length: int,
        sample_freq: int = -1,
        seed: int = 0,
    ) -> None:
        self.policy, self.num_envs = policy, num_envs
        self.rollout_length, self.sample_freq = rollout_length, sample_freq
        self.generator = np.random.default_rng([seed, 3])
        self.steps, self.theta = 0, torch.zeros(0)

    @torch.no_grad()
    def next(self) -> Tensor:
        """Those of the next step, `(num_envs, n, d)`."""
        step, log_std = self.steps % self.rollout_length, self.policy.log_std
        assert log_std is not None
        if step == 0 or (self.sample_freq > 0 and step % self.sample_freq == 0):
            noise = torch.from_numpy(self.generator.standard_normal((self.num_envs, *log_std.shape), np.float32))
            self.theta = noise.to(log_std) * log_std.exp()
        self.steps += 1
        return self.theta

    def state(self) -> dict[str, Any]:
        """The present matrices and the generator's state, for a checkpoint."""
        return {"steps": self.steps, "theta": self.theta, "generator": self.generator.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.steps, self.theta = state["steps"], state["theta"].to(next(self.policy.parameters()).device)
        self.generator.bit_generator.state = state["generator"]


class StateDependentNoiseActor(NoiseMatrices):
    """Actions of a policy with this noise; without memory. The arguments are those of `NoiseMatrices`, and:

    Args:
        observation_space: of one environment.
    """

    def __init__(
        self, policy: StateDependentNoisePolicy, observation_space: spaces.Space[Any], *arguments: int
    ) -> None:
        super().__init__(policy, *arguments)
        self.space = observation_space

    def __call__(self, observation: Any, mask: None = None) -> NDArray[Any]:
        """Actions `(num_envs, *shape)` for a batch of observations; plain ones are not cut to their bounds."""
        with in_eval_mode(self.policy):
            theta = self.next()
            features = self.policy.backbone(to_tensors(self.space, observation, theta.device))
            return self.policy.sample_with(features, theta).cpu().numpy()


def exploring_actor(
    policy: nn.Module,
    observation_space: spaces.Space[Any],
    num_envs: int,
    rollout_length: int,
    sample_freq: int = -1,
    seed: int = 0,
) -> SampledActor | StateDependentNoiseActor:
    """The actor that draws from a policy without memory as its kind wants it; see `NoiseMatrices`."""
    if isinstance(policy, StateDependentNoisePolicy):
        return StateDependentNoiseActor(policy, observation_space, num_envs, rollout_length, sample_freq, seed)
    return SampledActor(policy, observation_space, seed)
