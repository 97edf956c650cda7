"""Residual networks (He et al. 2016), for images of 8x8 up to photographs.

    x' = relu(shortcut(x) + branch(x))

| name | blocks | for images of |
|---|---|---|
| "resnet_small" | 1, 1, 1 basic; widths 32, 64, 128 | 8x8 to 64x64: no stride and no pooling before the blocks |
| "resnet18", "resnet34" | 2, 2, 2, 2 and 3, 4, 6, 3 basic; widths 64 to 512 | 64x64 and more |
| "resnet50", "resnet101" | 3, 4, 6, 3 and 3, 4, 23, 3 bottlenecks; widths 256 to 2048 | 64x64 and more |

We differ from the paper in three points. The normalization is "group" where nothing else is asked for: batch statistics
break target networks, gradient penalties and gradients per sample. A bottleneck strides in its 3x3 convolution, as
everybody does since. The branches start scaled by 1 / sqrt(their number).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from agentlib.backbones.images import ImageBackbone, Window, convolved_sides
from agentlib.backbones.layers import ACTIVATIONS, dtype_of, initialize, normalized, scale_branches, shifts
from agentlib.backbones.specs import Spec, described
from agentlib.core.names import look_up

RESNETS: dict[str, dict[str, Any]] = {
    "resnet_small": {"blocks": (1, 1, 1), "width": 32, "stem": "small"},
    "resnet18": {"blocks": (2, 2, 2, 2)},
    "resnet34": {"blocks": (3, 4, 6, 3)},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
    "resnet101": {"blocks": (3, 4, 23, 3), "bottleneck": True},
}
EXPANSION = 4
"""How much wider a bottleneck block is than its middle."""
STEMS: dict[str, tuple[Window, ...]] = {"large": ((7, 2, 3), (3, 2, 1)), "small": ((3, 1, 1),)}
"""Kernel, stride and padding of the first convolution, and of the pooling after it."""


class ConvNorm(nn.Sequential):
    """A convolution that keeps the sides up to its stride, with its normalization."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, norm: str) -> None:
        convolution = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=not shifts(norm))
        initialize(convolution, "he")
        super().__init__(*normalized(convolution, norm))


class Block(nn.Module):
    """activation(shortcut(x) + branch(x)): two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1."""

    def __init__(
        self, channels: int, width: int, stride: int, bottleneck: bool, norm: str, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.out_channels = width * EXPANSION if bottleneck else width
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != self.out_channels:
            self.shortcut = ConvNorm(channels, self.out_channels, 1, stride, norm)
        layers: list[tuple[int, int, int]] = [(width, 3, stride), (width, 3, 1)]  # channels, kernel, stride
        if bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (self.out_channels, 1, 1)]
        modules: list[nn.Module] = []
        for out_channels, kernel, its_stride in layers:
            modules += [ConvNorm(channels, out_channels, kernel, its_stride, norm), activation()]
            channels = out_channels
        self.branch = nn.Sequential(*modules[:-1])
        self.activation = modules[-1]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.activation(self.shortcut(x) + self.branch(x))  # (B, out_channels, h, w)
        return output


class ResNet(ImageBackbone):
    """A residual network; the features are the mean of the last maps.

    Args:
        shape: of one image, as `ImageLayout` has it: `(C, H, W)`, or `(H, W, C)` with `channels_last`.
        blocks: number of blocks in each stage; each stage after the first halves the sides and doubles the channels.
        width: channels of the first stage (of the middle of its blocks, with `bottleneck`).
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions, four times as wide at their ends.
        stem: "large" is a 7x7 convolution with stride 2 and a 3x3 pooling with stride 2, "small" a 3x3 convolution.
        norm: name of the normalization, see `agentlib.backbones.layers`.
        activation: name of the nonlinearity.
        channels_last: the last axis holds the channels.

    Raises:
        ValueError: an unknown name, or an image that is no image, lies the other way round, or is too small.
    """

    kind = "resnet"

    def __init__(
        self,
        shape: Sequence[int],
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        bottleneck: bool = False,
        stem: str = "large",
        norm: str = "group",
        activation: str = "relu",
        channels_last: bool = False,
    ) -> None:
        super().__init__(shape, channels_last)
        self.blocks, self.width, self.bottleneck = tuple(int(count) for count in blocks), int(width), bool(bottleneck)
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"each stage has at least one block, not {self.blocks}")
        self.stem_name, self.norm, self.activation = stem, norm, activation
        windows = look_up("stem", stem, STEMS)
        convolved_sides(self.layout, [*windows, *[(3, 2, 1)] * (len(self.blocks) - 1)])
        make_activation = look_up("activation", activation, ACTIVATIONS)
        (kernel, stride, _), *pooling = windows
        pools = [nn.MaxPool2d(*window) for window in pooling]
        self.stem = nn.Sequential(
            ConvNorm(self.layout.channels, self.width, kernel, stride, norm), make_activation(), *pools
        )
        channels = self.width
        stages: list[nn.Module] = []
        branch_ends: list[nn.Module] = []
        for stage, count in enumerate(self.blocks):
            members: list[nn.Module] = []
            for i in range(count):
                halved = 2 if stage > 0 and i == 0 else 1
                block = Block(channels, self.width * 2**stage, halved, self.bottleneck, norm, make_activation)
                members.append(block)
                branch_ends.append(block.branch[-1][-1])  # type: ignore[index]
                channels = block.out_channels
            stages.append(nn.Sequential(*members))
        scale_branches(branch_ends)
        self.stages = nn.ModuleList(stages)
        self.feature_dim = channels

    @classmethod
    def named(cls, name: str, shape: Sequence[int], **arguments: Any) -> Self:
        """One of the table of this file: `ResNet.named("resnet18", (3, 224, 224), norm="batch")`.

        Raises:
            ValueError: unknown name, or what the constructor raises.
        """
        return cls(shape, **{**look_up("ResNet", name, RESNETS), **arguments})

    @property
    def spec(self) -> Spec:
        return described(self, stem=self.stem_name)

    def forward(self, observation: Tensor) -> Tensor:
        return self.maps(observation)[-1].mean((2, 3))  # (B, feature_dim)

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The output `(B, C, h, w)` of the stem and of each stage."""
        found = [self.stem(self.layout(observation, dtype_of(self)))]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found
