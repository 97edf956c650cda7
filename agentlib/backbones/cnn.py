"""Convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Spec


def convolved_size(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    """Length of one side after a convolution or pooling: floor((size + 2 padding - kernel) / stride) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


class NatureCNN(Backbone):
    """The network of deep Q-learning on Atari (Mnih et al. 2015): three convolutions and one linear layer.

    Args:
        shape: of one image: `(C, H, W)`, or `(H, W, C)` with `channels_last`, or `(S, H, W, C)` for a stack of S
            colour frames.
        feature_dim: width of the linear layer.
        channels_last: the last axis holds the channels.

    uint8 images are divided by 255; floating-point images are taken as they are.

    Raises:
        ValueError: the shape is no image, or is too small for the three convolutions.
    """

    LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """(channels, kernel, stride) of each convolution."""

    def __init__(self, shape: Sequence[int], feature_dim: int = 512, channels_last: bool = False) -> None:
        super().__init__()
        self.shape, self.feature_dim, self.channels_last = tuple(shape), int(feature_dim), bool(channels_last)
        if len(self.shape) not in ((3, 4) if channels_last else (3,)):
            raise ValueError(f"an image has shape (C, H, W), or (H, W, C) with channels_last=True, not {self.shape}")
        if channels_last:
            height, width = self.shape[-3], self.shape[-2]
            channels = self.shape[-1] * (self.shape[0] if len(self.shape) == 4 else 1)
        else:
            channels, height, width = self.shape
        modules: list[nn.Module] = []
        for out_channels, kernel, stride in self.LAYERS:
            if min(height, width) < kernel:
                hint = "" if channels_last else "; for images of shape (H, W, C) give channels_last=True"
                raise ValueError(f"an image of shape {self.shape} is too small: both sides must be at least 36{hint}")
            modules += [nn.Conv2d(channels, out_channels, kernel, stride), nn.ReLU()]
            channels = out_channels
            height, width = convolved_size(height, kernel, stride), convolved_size(width, kernel, stride)
        self.convolutions = nn.Sequential(*modules)
        self.linear = nn.Sequential(nn.Linear(channels * height * width, self.feature_dim), nn.ReLU())

    @property
    def spec(self) -> Spec:
        arguments = {
            "shape": list(self.shape),
            "feature_dim": self.feature_dim,
            "channels_last": self.channels_last,
        }
        return {"name": "nature_cnn", "arguments": arguments}

    def forward(self, observation: Tensor) -> Tensor:
        image = observation.reshape(-1, *self.shape)  # also (B, H, W) for a single channel
        if self.channels_last:
            image = image.movedim(-1, -3)  # (B, C, H, W) or (B, S, C, H, W)
            image = image.flatten(1, -3)  # (B, S * C, H, W)
        image = image.float() if image.is_floating_point() else image.float() / 255.0
        features: Tensor = self.linear(self.convolutions(image).flatten(1))  # (B, feature_dim)
        return features
