"""Cloning by diffusion: a policy that may act in several ways where its expert did (Chi et al. 2023, arXiv:2303.04137).

    a_t = sqrt(abar_t) a + sqrt(1 - abar_t) noise
    L = E | noise - noise_hat(a_t, t; o) |^2

E goes over the labelled steps of the demonstrations. It is the loss of `agentlib.learners.generative.diffusion`, of
actions given the features of what was seen; the squared error of BC would lead to the mean of what the expert did. As
in the paper, the agent is an average of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from agentlib.backbones import Optimized
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Target, Update, average_rate
from agentlib.core.config import Count, Range, Rate, Unit
from agentlib.experience import Demonstration, Demonstrations, Labelled
from agentlib.families.demonstrations import DemonstrationFacts, observe_all, on_demonstrations
from agentlib.learners.generative.diffusion import denoising_losses
from agentlib.learners.imitation.bc import weighted_mean
from agentlib.policies import DiffusionPolicy
from agentlib.policies.base import is_policy, require_no_memory


@dataclass(frozen=True, kw_only=True)
class DiffusionBCConfig(Optimized):
    """The numbers of a run of cloning by diffusion."""

    learning_rate: Rate = Cosine(1e-3, 0.0)
    batch_size: Count = 256
    """Steps of demonstrations per update."""
    noise_steps: Annotated[int, Range(2)] = 50
    """T, the number of steps between actions and noise."""
    sample_steps: Count = 10
    """Steps of the fast sampler while acting; at most `noise_steps`."""
    denoiser: tuple[int, ...] = (128, 128, 128)
    """Widths of the layers that predict the noise."""
    average: Unit = 0.995
    """Decay of the average of the weights that acts: the share of itself that it keeps at each update."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the backbone's hidden layers; the default depends on the kind of input."""
    normalize: bool = True
    """Standardize vectors by running statistics of the observations, which are saved with the agent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_steps > self.noise_steps:
            raise ValueError(f"DiffusionBCConfig.sample_steps must be between 1 and {self.noise_steps}, "
                             f"not {self.sample_steps}: there are no more noise_steps")  # fmt: skip


class DiffusionBC(Learner):
    """Cloning by diffusion; the `model` of the policy is standardized by the expert's actions.

    Raises:
        ValueError: another policy.
    """

    def __init__(
        self, policy: DiffusionPolicy, optimizer: Optimizer, config: DiffusionBCConfig = DiffusionBCConfig()
    ) -> None:
        super().__init__()
        if not isinstance(policy, DiffusionPolicy):
            raise ValueError(f"diffusion_bc goes on from a DiffusionPolicy, not from a {type(policy).__name__}")
        self.config = config
        self.policy, self.average = policy, Target(policy)
        self.step = Step(policy, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DiffusionBCConfig, facts: DemonstrationFacts) -> Self:
        """On a backbone, in the scale of the expert's actions; or of a policy that is one already.

        Raises:
            ValueError: actions that are not real-valued, or a backbone with memory.
        """
        done, demonstrations, policy = facts.action_space, facts.demonstrations, backbone
        if not is_policy(policy):
            if not isinstance(done, spaces.Box):
                raise ValueError(f"diffusion_bc makes real-valued actions (Box), not {done}: for others there is bc")
            require_no_memory(backbone, "diffusion_bc")
            policy = DiffusionPolicy(backbone, done, config.denoiser, config.noise_steps, config.sample_steps)
            labels = np.concatenate([episode.labels[episode.labelled] for episode in demonstrations])
            policy.model.standardize(torch.from_numpy(labels.reshape(len(labels), -1).astype(np.float32)))
        observe_all(policy, demonstrations)
        return cls(policy, config.optimizer(), config)  # type: ignore[arg-type] # checked there

    @property
    def model(self) -> Any:
        """The average of the policy's weights, which acts."""
        return self.average.network

    def update(self, batch: Labelled) -> Update:
        """One step on the squared error of the noise; `per_sample` holds the errors `(B,)`."""
        features, _ = self.policy(batch.observation)
        losses = denoising_losses(self.policy.model, self.policy.bounds.flat(batch.action), features)
        loss = weighted_mean(losses, batch.weight)
        norm = self.step(loss, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight episodes of going to one side or the other, two layers of 16."""
        generator = np.random.default_rng(0)  # the demonstrations are given: the seed is of weights and order
        demonstrations = Demonstrations(spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32))
        for _ in range(8):
            sides = generator.choice([-1.0, 1.0], (16, 1)).astype(np.float32)
            demonstrations.append(Demonstration(generator.uniform(-1, 1, (17, 2)), 0.8 * sides, np.zeros(16)))
        sizes: Any = {"batch_size": 16, "denoiser": (16, 16), "net_arch": (16, 16), "normalize": False}
        config = DiffusionBCConfig(learning_rate=1e-3, noise_steps=20, sample_steps=5, average=0.9, **sizes)
        return RECIPE.tiny(cls, config, seed, demos=demonstrations)


RECIPE = Recipe(
    "diffusion_bc",
    DiffusionBC,
    DiffusionBCConfig,
    on_demonstrations,
    "cloning by diffusion (Chi et al. 2023): keeps several ways to act apart; real-valued actions",
    steps=5_000,
)
