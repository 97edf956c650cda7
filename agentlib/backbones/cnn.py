"""Convolutional networks: the Nature CNN, and one whose layers are listed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.images import ImageBackbone, Window, convolved_sides, scaled
from agentlib.backbones.layers import ACTIVATIONS, dtype_of, initialize, normalized, outputs_at, shifts
from agentlib.backbones.specs import Spec, described
from agentlib.core.names import look_up
from agentlib.core.step import once

POOLINGS: dict[str, type[nn.MaxPool2d | nn.AvgPool2d]] = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
"""Over 2x2 pixels, with stride 2."""

WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types as wide as a block's row of bytes."""


class BlockConv2d(nn.Conv2d):
    """`nn.Conv2d` of images, without padding, its kernel's side a multiple of the stride; quicker for few channels.

    With stride s, an image is taken as blocks of s by s pixels, whose numbers become channels. A kernel of side k then
    covers k/s by k/s blocks, and moves by one. Processors like many channels, and have them last in memory.

    uint8 images are divided by 255, once they are in blocks: bytes are moved more quickly than floating-point numbers.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        if kernel_size % stride:
            raise ValueError(f"a kernel of side {kernel_size} is not a multiple of the stride {stride}")
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.side = stride

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = ((length // self.side) * self.side for length in input.shape[-2:])
        image = input[..., :rows, :columns]
        if image.dtype == torch.uint8 and self.side in WORDS and not torch.compiler.is_exporting():  # ONNX has no view
            words = self._in_blocks(once(image.contiguous()).view(WORDS[self.side]), width=1)
            blocks = once(words.contiguous()).view(torch.uint8)
        else:
            blocks = self._in_blocks(image, width=self.side)  # (B, H/s, W/s, C s s)
        blocks = scaled(blocks, self.weight.dtype)
        kernels = self._in_blocks(self.weight, width=self.side)
        return functional.conv2d(blocks.permute(0, 3, 1, 2), kernels.permute(0, 3, 1, 2), self.bias)

    def _in_blocks(self, image: Tensor, width: int) -> Tensor:
        """`(B, C, H, W)` as `(B, H/s, W/s, C s s)`."""
        batch, channels, height, columns = image.shape
        side = self.side
        blocks = image.reshape(batch, channels, height // side, side, columns // width, width).permute(0, 2, 4, 1, 3, 5)
        return blocks.reshape(batch, height // side, columns // width, channels * side * width)


class NatureCNN(ImageBackbone):
    """The network of deep Q-learning on Atari (Mnih et al. 2015): three convolutions and one linear layer.

    Args:
        shape: of one image: `(C, H, W)`, or `(H, W, C)` with `channels_last`, or `(S, H, W, C)` for a stack of S
            colour frames.
        feature_dim: width of the linear layer.
        channels_last: the last axis holds the channels.

    uint8 images are divided by 255; floating-point images are taken as they are.

    Raises:
        ValueError: the shape is no image, lies the other way round, or is too small for the three convolutions.
    """

    kind = "nature_cnn"

    LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    """(channels, kernel, stride) of each convolution."""

    def __init__(self, shape: Sequence[int], feature_dim: int = 512, channels_last: bool = False) -> None:
        super().__init__(shape, channels_last)
        self.feature_dim = int(feature_dim)
        height, width = convolved_sides(self.layout, [(kernel, stride, 0) for _, kernel, stride in self.LAYERS])
        channels = self.layout.channels
        modules: list[nn.Module] = []
        for out_channels, kernel, stride in self.LAYERS:
            kind = BlockConv2d if channels == self.layout.channels else nn.Conv2d
            modules += [kind(channels, out_channels, kernel, stride), nn.ReLU()]
            channels = out_channels
        self.convolutions = nn.Sequential(*modules)
        self.linear = nn.Sequential(nn.Linear(channels * height * width, self.feature_dim), nn.ReLU())

    def forward(self, observation: Tensor) -> Tensor:
        maps = self.convolutions(self.layout(observation))  # (B, 64, h, w)
        features: Tensor = self.linear(maps.flatten(1))  # (B, feature_dim)
        return features

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The output `(B, C, h, w)` of each of the three convolutions."""
        return outputs_at([1, 3, 5], self.convolutions, self.layout(observation))


class CNN(ImageBackbone):
    """Convolutions and poolings, as they are listed.

    Each convolution is followed by its normalization and activation: `layers=(16, 32, "max", 32)` is two convolutions,
    a pooling that halves the sides, and one more convolution.

    Args:
        shape: of one image, as `ImageLayout` has it: `(C, H, W)`, or `(H, W, C)` with `channels_last`.
        layers: for each a number, the channels of a 3x3 convolution that keeps the sides; or (channels, kernel, stride)
            or (channels, kernel, stride, padding); or "max" or "average", a pooling over 2x2 pixels.
        feature_dim: width of a linear layer with activation at the end; None for the mean of the last maps.
        activation: name of the nonlinearity.
        norm: name of the normalization, see `agentlib.backbones.layers`; "layer" is over C, H and W.
        init: name of the initialization, see `agentlib.backbones.layers`.
        channels_last: the last axis holds the channels.

    Raises:
        ValueError: an unknown name, or an image that is no image, lies the other way round, or is too small.
    """

    kind = "cnn"

    def __init__(
        self,
        shape: Sequence[int],
        layers: Sequence[int | str | Sequence[int]] = (32, "max", 64, "max", 64),
        feature_dim: int | None = 128,
        activation: str = "relu",
        norm: str = "layer",
        init: str = "he",
        channels_last: bool = False,
    ) -> None:
        super().__init__(shape, channels_last)
        self.layers = [layer if isinstance(layer, int | str) else list(layer) for layer in layers]
        self.activation, self.norm, self.init, self.has_linear = activation, norm, init, feature_dim is not None
        height, width = convolved_sides(self.layout, [_window(layer) for layer in self.layers])
        make_activation = look_up("activation", activation, ACTIVATIONS)
        channels = self.layout.channels
        modules: list[nn.Module] = []
        self.ends: list[int] = []  # where in `modules` each layer ends
        for layer in self.layers:
            if isinstance(layer, str):
                modules.append(look_up("pooling", layer, POOLINGS)(2))
            else:
                out_channels = layer if isinstance(layer, int) else layer[0]
                kernel, stride, padding = _window(layer)
                convolution = nn.Conv2d(channels, out_channels, kernel, stride, padding, bias=not shifts(norm))
                initialize(convolution, init)
                modules += [*normalized(convolution, norm), make_activation()]
                channels = out_channels
            self.ends.append(len(modules) - 1)
        self.convolutions = nn.Sequential(*modules)
        self.linear = nn.Sequential()
        if feature_dim is not None:
            linear = nn.Linear(channels * height * width, int(feature_dim))
            initialize(linear, init)
            self.linear = nn.Sequential(*normalized(linear, norm), make_activation())
        self.feature_dim = channels if feature_dim is None else int(feature_dim)

    @property
    def spec(self) -> Spec:
        return described(self, feature_dim=self.feature_dim if self.has_linear else None)

    def forward(self, observation: Tensor) -> Tensor:
        maps = self.convolutions(self.layout(observation, dtype_of(self)))  # (B, C, h, w)
        features: Tensor = self.linear(maps.flatten(1)) if self.has_linear else maps.mean((2, 3))  # (B, feature_dim)
        return features

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The output `(B, C, h, w)` of each listed layer."""
        return outputs_at(self.ends, self.convolutions, self.layout(observation, dtype_of(self)))


def _window(layer: int | str | Sequence[int]) -> Window:
    if isinstance(layer, str):
        return 2, 2, 0
    if isinstance(layer, int):
        return 3, 1, 1
    if len(layer) not in (3, 4):
        raise ValueError(f"a convolution is its channels, or (channels, kernel, stride[, padding]), not {layer}")
    return layer[1], layer[2], layer[3] if len(layer) == 4 else 0
