"""From image to image: the U-Net (Ronneberger et al. 2015), and a decoder for the maps of any encoder.

The encoder halves the sides and widens the channels; the decoder doubles them again, and at each size takes in what the
encoder had there. We differ from the paper: convolutions keep the sides (sides that do not halve evenly are padded, and
the output is cropped), the blocks are residual with normalization before activation, the steps down are strided
convolutions and the steps up repeat pixels, all as in Ho et al. 2020. A condition, such as the embedding of a
diffusion's time, scales and shifts the normalized maps of each block (Perez et al. 2018; Dhariwal & Nichol 2021):

    h = norm(x) * (1 + scale(c)) + shift(c)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.images import ImageBackbone, convolved_sides
from agentlib.backbones.layers import ACTIVATIONS, OF_WEIGHTS, dtype_of, norm_named
from agentlib.core.names import look_up


def _convolution(channels: int, out_channels: int, kernel: int, norm: str, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2)
    return OF_WEIGHTS[norm](convolution) if norm in OF_WEIGHTS else convolution


class ConditionedBlock(nn.Module):
    """skip(x) + conv(act(condition(norm(conv(act(norm(x)))))))."""

    def __init__(self, channels: int, out_channels: int, condition_dim: int, norm: str, activation: str) -> None:
        super().__init__()
        make_activation = look_up("activation", activation, ACTIVATIONS)
        self.enter = nn.Sequential(
            norm_named(norm, channels, maps=True), make_activation(), _convolution(channels, out_channels, 3, norm)
        )
        self.norm = norm_named(norm, out_channels, maps=True)
        self.condition: nn.Linear | None = None
        if condition_dim:
            self.condition = nn.Linear(condition_dim, 2 * out_channels)
            nn.init.zeros_(self.condition.weight)  # a fresh network pays no attention to the condition
            nn.init.zeros_(self.condition.bias)
        self.leave = nn.Sequential(make_activation(), _convolution(out_channels, out_channels, 3, norm))
        self.skip = nn.Identity() if channels == out_channels else _convolution(channels, out_channels, 1, norm)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.norm(self.enter(x))
        if self.condition is not None and condition is not None:
            scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1)
            h = h * (1.0 + scale) + shift
        output: Tensor = self.skip(x) + self.leave(h)  # (B, out_channels, h, w)
        return output


class MapDecoder(nn.Module):
    """From the maps of an encoder back to an image: the right half of a U-Net.

    It takes what `maps` of a backbone gives, or a part of it: `MapDecoder([64, 128, 256], 3)(resnet.maps(x)[1:])`.

    Args:
        channels: of the encoder's maps, from the finest to the coarsest.
        out_channels: of the image.
        condition_dim: width of the condition; 0 for none.
        norm: name of the normalization, see `agentlib.backbones.layers`.
        activation: name of the nonlinearity.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        condition_dim: int = 0,
        norm: str = "group",
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.channels, self.out_channels, self.condition_dim = tuple(channels), int(out_channels), int(condition_dim)
        steps, blocks = [], []
        for coarse, fine in zip(self.channels[:0:-1], self.channels[-2::-1], strict=True):
            steps.append(_convolution(coarse, fine, 3, norm))
            blocks.append(ConditionedBlock(2 * fine, fine, condition_dim, norm, activation))
        self.steps, self.blocks = nn.ModuleList(steps), nn.ModuleList(blocks)
        finest = self.channels[0]
        self.output = nn.Sequential(
            norm_named(norm, finest, maps=True),
            look_up("activation", activation, ACTIVATIONS)(),
            nn.Conv2d(finest, out_channels, 3, 1, 1),
        )

    def forward(
        self, maps: Sequence[Tensor], condition: Tensor | None = None, sides: tuple[int, int] | None = None
    ) -> Tensor:
        """`(B, out_channels, h, w)` from maps `(B, C, h, w)`, finest first.

        Args:
            maps: one for each of `channels`.
            condition: `(B, condition_dim)`.
            sides: height and width of the output; those of the finest map by default.
        """
        found = tuple(int(one.shape[1]) for one in maps)
        if found != self.channels:
            raise ValueError(f"the decoder was built for maps of {self.channels} channels, not of {found}")
        *finer, x = maps
        for step, block, beside in zip(self.steps, self.blocks, reversed(finer), strict=True):
            x = step(functional.interpolate(x, beside.shape[-2:], mode="nearest"))
            x = block(torch.cat([x, beside], dim=1), condition)
        output: Tensor = self.output(x)
        if sides is not None and tuple(output.shape[-2:]) != tuple(sides):
            output = functional.interpolate(output, tuple(sides), mode="bilinear", align_corners=False)
        return output


class UNet(ImageBackbone):
    """An image for an image: `(B, feature_dim, H, W)`, that is, `feature_dim` features for each pixel.

    `maps` gives the encoder's maps, which can be pooled where features of the whole image are wanted.

    Args:
        shape: of one image, as `ImageLayout` has it: `(C, H, W)`, or `(H, W, C)` with `channels_last`.
        out_channels: of the output; as many as the input has by default.
        widths: channels at each size, from the finest on; each size is half of the one before.
        condition_dim: width of the condition; 0 for none.
        norm: name of the normalization, see `agentlib.backbones.layers`.
        activation: name of the nonlinearity.
        channels_last: the last axis of the input holds the channels; the output is `(B, C, H, W)` all the same.

    Raises:
        ValueError: an unknown name, or an image that is no image, lies the other way round, or is too small.
    """

    kind = "unet"

    def __init__(
        self,
        shape: Sequence[int],
        out_channels: int | None = None,
        widths: Sequence[int] = (32, 64, 128),
        condition_dim: int = 0,
        norm: str = "group",
        activation: str = "silu",
        channels_last: bool = False,
    ) -> None:
        super().__init__(shape, channels_last)
        self.widths, self.condition_dim = tuple(int(width) for width in widths), int(condition_dim)
        self.norm, self.activation = norm, activation
        self.multiple = 2 ** (len(self.widths) - 1)  # what the sides are padded to
        convolved_sides(self.layout, [(3, 2, 1)] * (len(self.widths) - 1))
        channels = self.layout.channels
        self.out_channels = self.feature_dim = channels if out_channels is None else int(out_channels)
        self.enter = nn.Conv2d(channels, self.widths[0], 3, 1, 1)
        self.blocks = nn.ModuleList(
            ConditionedBlock(width, width, self.condition_dim, norm, activation) for width in self.widths
        )
        self.steps = nn.ModuleList(_convolution(fine, coarse, 3, norm, 2) for fine, coarse in pairwise(self.widths))
        self.decoder = MapDecoder(self.widths, self.feature_dim, self.condition_dim, norm, activation)

    def forward(self, observation: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(B, feature_dim, H, W)` from images and a condition `(B, condition_dim)`; None counts as zeros.

        Raises:
            ValueError: images or a condition of another shape.
        """
        height, width = self.layout.sides
        maps = self.maps(observation, condition)
        output = self.decoder(maps, self._condition(condition, maps[0]))
        return output[..., :height, :width]  # type: ignore[no-any-return]

    def maps(self, observation: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The encoder's maps `(B, C, h, w)`, finest first, their sides padded to `multiple`."""
        image = self.layout(observation, dtype_of(self))
        height, width = self.layout.sides
        image = functional.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        condition = self._condition(condition, image)
        x = self.blocks[0](self.enter(image), condition)
        found = [x]
        for step, block in zip(self.steps, self.blocks[1:], strict=True):
            x = block(step(x), condition)
            found.append(x)
        return found

    def _condition(self, condition: Tensor | None, like: Tensor) -> Tensor | None:
        if not self.condition_dim:
            if condition is not None:
                raise ValueError("this U-Net takes no condition: build it with condition_dim=...")
            return None
        if condition is None:
            return like.new_zeros(len(like), self.condition_dim)
        if condition.shape != (len(like), self.condition_dim):
            raise ValueError(
                f"the condition has shape {tuple(condition.shape)}, and {(len(like), self.condition_dim)} is needed: "
                "(B, condition_dim)"
            )
        return condition.to(like.dtype)
