"""The common fields of the configs of learners of pixels, and the network that they mean by "auto"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentlib.backbones import Optimized, UNet
from agentlib.core import Cosine
from agentlib.core.config import Count, Rate


@dataclass(frozen=True, kw_only=True)
class OfPixels(Optimized):
    """The common fields of the configs of learners of pixels."""

    learning_rate: Rate = Cosine(3e-3)
    """Learning rate: a number or a schedule."""
    batch_size: Count = 16
    """Pictures per update."""
    net_arch: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of the U-Net at each size, from the finest on; each size is half of the one before."""

    def network(self, shape: Sequence[int]) -> UNet:
        """The network of images `(C, H, W)` that "auto" means."""
        return UNet(shape, out_channels=self.net_arch[0], widths=self.net_arch)
