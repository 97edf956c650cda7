"""Reconstruction: the depth of each pixel from one image (Eigen et al. 2014, arXiv:1406.2283).

    L = mean |e_i| + w (mean e_i^2 - (mean e_i)^2),      e_i = log d_i - log t_i

The second term is the variance of the errors of a picture's logarithms: it does not see a common factor, which one
image often leaves open. d is the exponential of a network's output, so that depths are above 0. We differ: the first
term is absolute (Eigen's is squared), nearer to the relative errors that results are judged by, and the network is a
U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from agentlib.backbones.pixels import PixelNetwork
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import NonNegative
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.families.scenes import SceneFacts, on_scenes
from agentlib.learners.vision.pixels import OfPixels


def depth_losses(log_depth: Tensor, truth: Tensor, variance: float = 0.0) -> Tensor:
    """The loss `(B,)` of logarithms of depths against depths, both `(B, H, W)`."""
    error = (log_depth - truth.log()).flatten(1)
    return error.abs().mean(1) + variance * error.var(1, correction=0)


@dataclass(frozen=True, kw_only=True)
class DepthConfig(OfPixels):
    """The numbers of a depth's run."""

    variance: NonNegative = 0.5
    """Weight of the variance of a picture's errors."""


class Depth(Learner):
    """Learns the depth of each pixel."""

    targets = "depth"

    def __init__(self, network: PixelNetwork, optimizer: Optimizer, config: DepthConfig = DepthConfig()) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DepthConfig, facts: SceneFacts) -> Self:
        """A network of images under its head, which begins with the mean of the training depths' logarithms."""
        network = PixelNetwork(backbone, facts.shape, 1)
        assert network.head.bias is not None
        nn.init.constant_(network.head.bias, float(facts.train.known("depth").log().mean()))
        return cls(network, config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Depths `(B, H, W)`."""
        return self.network.answer(x)

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses of pictures `(B,)`."""
        assert batch.y is not None
        losses = depth_losses(self.network(batch.x)[:, 0], batch.y, self.config.variance)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: shapes of 16x16, a U-Net of two sizes."""
        data = shape_scenes(24, size=16, most=2)
        config = DepthConfig(batch_size=4, net_arch=(8, 8))
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(data, data, data))


RECIPE = Recipe(
    "depth", Depth, DepthConfig, on_scenes, "the depth of each pixel from one image (Eigen et al. 2014)", steps=1_000
)
