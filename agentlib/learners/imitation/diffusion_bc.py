"""Cloning by diffusion: a policy that may act in several ways where its expert did (Chi et al. 2023, arXiv:2303.04137).

    a_t = sqrt(abar_t) a + sqrt(1 - abar_t) noise
    L = E | noise - noise_hat(a_t, t; o) |^2

E goes over the labelled steps of the demonstrations. It is the loss of `agentlib.learners.generative.diffusion`, of
actions given the features of what was seen; the squared error of BC would lead to the mean of what the expert did. As
in the paper, the agent is an average of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from agentlib.backbones import MLP, Cosine, Schedule, adam
from agentlib.data import Demonstration, DemonstrationBatches, Demonstrations
from agentlib.data.demonstration_batches import Labelled
from agentlib.learners.generative.diffusion import denoising_losses
from agentlib.learners.imitation.bc import weighted_mean
from agentlib.policies import DiffusionPolicy
from agentlib.training import Learner, Step, Target, Update, average_rate
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


@dataclass(frozen=True, kw_only=True)
class DiffusionBCConfig:
    """All numbers of a run of cloning by diffusion."""

    learning_rate: Schedule = Cosine(1e-3, 0.0)
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 256
    """Steps of demonstrations per update."""
    noise_steps: int = 50
    """T, the steps between actions and noise."""
    sample_steps: int = 10
    """Steps of the fast sampler while acting."""
    denoiser: tuple[int, ...] = (128, 128, 128)
    """Widths of the layers that tell the noise."""
    average: float = 0.995
    """Share of itself that the average of the weights, which acts, keeps at each update."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the backbone's layers; by default 64 and 64, or none after a CNN."""
    normalize: bool = True
    """Standardize observations by the statistics of the demonstrations, which travel with the agent."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size")
        check_range(self, 2, math.inf, "noise_steps")
        check_range(self, 0, math.inf, "learning_rate", "max_grad_norm")
        check_range(self, 0, 1, "average")
        check_range(self, 1, self.noise_steps, "sample_steps")


class DiffusionBC(Learner):
    """Cloning by diffusion.

    Args:
        policy: actions out of noise, its `model` standardized by the expert's.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
    """

    def __init__(
        self, policy: DiffusionPolicy, optimizer: Optimizer, config: DiffusionBCConfig = DiffusionBCConfig()
    ) -> None:
        super().__init__()
        self.config = config
        self.policy, self.average = policy, Target(policy)
        self.step = Step(policy, optimizer, config.max_grad_norm)

    def update(self, batch: Labelled) -> Update:
        """One step on the squared error of the noise; `per_sample` holds the errors `(B,)`."""
        features, _ = self.policy(batch.observation)
        losses = denoising_losses(self.policy.model, self.policy.bounds.flat(batch.action), features)
        loss = weighted_mean(losses, batch.weight)
        norm = self.step(loss, batch.clock)
        self.average.follow(self.policy, average_rate(self.config.average, batch.clock))
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, DemonstrationBatches]:
        """The smallest honest run: eight episodes of going to one side or the other, two layers of 16."""
        from gymnasium import spaces

        generator = np.random.default_rng(0)  # the demonstrations are given: the seed is of weights and order
        demonstrations = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32))
        for _ in range(8):
            sides = generator.choice([-1.0, 1.0], (16, 1)).astype(np.float32)
            demonstrations.append(Demonstration(generator.uniform(-1, 1, (17, 2)), 0.8 * sides, np.zeros(16)))
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            action_space = spaces.Box(-1, 1, (1,), np.float32)
            policy = DiffusionPolicy(MLP(2, hidden=(16, 16)), action_space, (16, 16), noise_steps=20, sample_steps=5)
        policy.model.standardize(torch.from_numpy(demonstrations.column("label").copy()))
        config = DiffusionBCConfig(batch_size=16, noise_steps=20, sample_steps=5, average=0.9)
        return cls(policy, adam(1e-3), config), DemonstrationBatches(demonstrations, batch_size=16, seed=seed)
