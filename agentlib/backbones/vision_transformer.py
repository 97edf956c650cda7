"""Transformers on images: ViT (Dosovitskiy et al. 2021, arXiv:2010.11929), Swin (Liu et al. 2021, arXiv:2103.14030).

    ViT     z = [class token; E patches] + P,  z <- layers(z),  features = LN(z)[class token]
    Swin    z = LN(E patches);  each stage: attention within windows, every second layer with the windows moved by half
            of their side;  between stages 2x2 tokens become one of twice the width;  features = mean LN(z)

ViT-B/16 is `ViT((3, 224, 224), patch=16, dim=768, layers=12, heads=12)`, and Swin-T is `Swin((3, 224, 224))`. ViT's
defaults are for small images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.attention import Layer, Stack
from agentlib.backbones.images import ImageBackbone, ImageLayout, tiling
from agentlib.core.names import close_matches


def patch_grid(layout: ImageLayout, patch: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: patches of this size do not tile the image.
    """
    height, width = layout.sides
    if patch < 1 or height % patch or width % patch:
        fitting = tiling(height, width)
        raise ValueError(
            f"patches of {patch}x{patch} do not tile an image of {height}x{width}; sides that do: {fitting}"
        )
    return height // patch, width // patch


class ViT(ImageBackbone):
    """The vision transformer: an image is a sequence of patches.

    Args:
        shape: of one image, `(C, H, W)`, or `(H, W, C)` with `channels_last`.
        patch: side of a patch; it divides both sides of the image.
        dim: width of the tokens.
        layers: one on top of the other.
        heads: of each attention; they divide the width.
        mlp_dim: hidden width of the MLPs; by default four times the width.
        pool: "class" reads a token that was added in front, "mean" averages the patches.
        dropout: of embeddings, attention weights and branches.
        channels_last: the last axis holds the channels.
        second_order: attention that can be differentiated twice.
        gradient_checkpointing: to learn, keep the input of each layer alone, and compute the rest again.
    """

    kind = "vit"

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 4,
        dim: int = 64,
        layers: int = 4,
        heads: int = 4,
        mlp_dim: int | None = None,
        pool: Literal["class", "mean"] = "class",
        dropout: float = 0.0,
        channels_last: bool = False,
        second_order: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(shape, channels_last)
        if pool not in ("class", "mean"):
            raise ValueError(f"unknown pool {pool!r}{close_matches(pool, ('class', 'mean'))}")
        self.patch, self.layers, self.heads, self.pool = int(patch), int(layers), int(heads), pool
        self.dim = self.feature_dim = int(dim)
        self.mlp_dim, self.dropout, self.second_order = mlp_dim or 4 * dim, float(dropout), bool(second_order)
        self.grid = patch_grid(self.layout, self.patch)
        self.patches = nn.Conv2d(self.layout.channels, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if pool == "class" else None
        tokens = math.prod(self.grid) + (pool == "class")
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.stack = Stack(
            [
                Layer(dim, heads, self.mlp_dim, dropout=dropout, eps=1e-6, second_order=self.second_order)
                for _ in range(layers)
            ],
            gradient_checkpointing,
        )

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.stack.gradient_checkpointing

    def embed(self, observation: Tensor) -> Tensor:
        """The tokens `(B, N, dim)` before the first layer: the class token, if there is one; the patches by rows."""
        image = self.layout(observation, self.patches.weight.dtype)  # (B, C, H, W)
        tokens = self.patches(image).flatten(2).mT  # (B, patches, dim)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return functional.dropout(tokens + self.positions, self.dropout, self.training)

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The tokens `(B, N, dim)` after each layer, the last ones normalized."""
        outputs, _ = self.stack(self.embed(observation))
        return outputs  # type: ignore[no-any-return]

    def forward(self, observation: Tensor) -> Tensor:
        tokens = self.maps(observation)[-1]
        return tokens[:, 0] if self.pool == "class" else tokens.mean(1)


def windows(x: Tensor, side: int) -> Tensor:
    """Maps `(B, H, W, C)` cut into windows `(B * windows, side * side, C)`, by rows."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side * side, channels)


def joined(x: Tensor, side: int, height: int, width: int) -> Tensor:
    """Windows put together to maps `(B, H, W, C)`: the inverse of `windows`."""
    x = x.view(-1, height // side, width // side, side, side, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def offsets(side: int) -> Tensor:
    """The number `(side^2, side^2)` of the offset between two places of a window, from 0 to (2 side - 1)^2 - 1."""
    row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    down, right = row[:, None] - row + side - 1, column[:, None] - column + side - 1
    return down * (2 * side - 1) + right


def neighbours(height: int, width: int, side: int, shift: int) -> Tensor:
    """Which places of a window may read each other `(windows, side^2, side^2)` once the maps were rolled by `shift`.

    Rolling brings the first rows and columns next to the last ones: they share windows, but are not near each other.
    """
    region = [(torch.arange(n) >= n - side).long() + (torch.arange(n) >= n - shift).long() for n in (height, width)]
    number = windows((3 * region[0][:, None] + region[1])[None, :, :, None], side)[..., 0]  # (windows, side^2)
    return number[:, :, None] == number[:, None, :]


class SwinLayer(nn.Module):
    """A layer whose attention stays within windows, with a learned bias for each offset between two places.

    Args:
        sides: height and width of the maps; the window divides both.
        window: side of a window.
        shift: number of places by which the windows are moved down and to the right.
        layer: attention and MLP. All but the attention works on each token alone, so it can run on windows as it is.
    """

    def __init__(self, sides: tuple[int, int], window: int, shift: int, layer: Layer) -> None:
        super().__init__()
        self.sides, self.window, self.shift, self.layer = sides, window, shift, layer
        self.bias = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, layer.attention.heads))
        self.register_buffer("offset", offsets(window), persistent=False)
        near = neighbours(*sides, window, shift) if shift else None
        self.register_buffer("near", near, persistent=False)

    offset: Tensor
    near: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(B, H, W, C)` to maps of the same shape."""
        mask = self.bias[self.offset].movedim(-1, 0)  # (heads, side^2, side^2)
        if self.near is not None:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = mask.masked_fill(~self.near[:, None], -torch.inf)  # (windows, heads, side^2, side^2)
            mask = mask.expand(x.shape[0], *mask.shape).flatten(0, 1)  # (B * windows, heads, side^2, side^2)
        x = joined(self.layer(windows(x, self.window), mask)[0], self.window, *self.sides)
        return x if self.near is None else x.roll((self.shift, self.shift), (1, 2))


class Merging(nn.Module):
    """Each 2x2 tokens become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, H, W, C)` to `(B, H / 2, W / 2, 2 C)`."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, -1)))  # type: ignore[no-any-return]


class Swin(ImageBackbone):
    """The transformer of shifted windows: its maps become smaller and wider, as a CNN's do.

    Args:
        shape: of one image, `(C, H, W)`, or `(H, W, C)` with `channels_last`.
        patch: side of a patch; it divides both sides of the image.
        dim: width of the first stage; it doubles with each.
        depths: layers of each stage.
        heads: of each stage.
        window: side of a window; maps that are not larger are one window.
        mlp_ratio: hidden width of the MLPs, in widths of their stage.
        dropout: of embeddings, attention weights and branches.
        channels_last: the last axis holds the channels.
        second_order: attention that can be differentiated twice.

    Raises:
        ValueError: patches or windows do not tile, or 2x2 tokens cannot be merged; the message says what would fit.
    """

    kind = "swin"

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 4,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        channels_last: bool = False,
        second_order: bool = False,
    ) -> None:
        super().__init__(shape, channels_last)
        if len(depths) != len(heads) or not depths:
            raise ValueError(f"depths and heads name the same stages, not {tuple(depths)} and {tuple(heads)}")
        self.patch, self.dim, self.depths, self.heads = int(patch), int(dim), tuple(depths), tuple(heads)
        self.window, self.mlp_ratio = int(window), int(mlp_ratio)
        self.dropout, self.second_order = float(dropout), bool(second_order)
        self.patches = nn.Conv2d(self.layout.channels, dim, patch, patch)
        self.patch_norm = nn.LayerNorm(dim)
        self.stages, self.mergings = nn.ModuleList(), nn.ModuleList()
        sides = patch_grid(self.layout, self.patch)
        for number, depth in enumerate(self.depths):
            if number > 0:
                sides = _merged(sides, number)
                self.mergings.append(Merging(dim))
                dim *= 2
            self.stages.append(nn.Sequential(*(self._layer(sides, number, dim, i) for i in range(depth))))
        self.feature_dim = dim
        self.norm = nn.LayerNorm(dim)

    def _layer(self, sides: tuple[int, int], stage: int, dim: int, number: int) -> SwinLayer:
        side, shift = self.window, self.window // 2 if number % 2 else 0
        if min(sides) <= side:
            side, shift = min(sides), 0
        if sides[0] % side or sides[1] % side:
            raise ValueError(
                f"windows of {side}x{side} do not tile the {sides[0]}x{sides[1]} tokens of stage {stage + 1}; sides "
                f"that do: {tiling(*sides)}"
            )
        layer = Layer(
            dim,
            self.heads[stage],
            self.mlp_ratio * dim,
            dropout=self.dropout,
            second_order=self.second_order,
        )
        layer.scale_branches(1.0 / math.sqrt(2 * sum(self.depths)))
        return SwinLayer(sides, side, shift, layer)

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The maps `(B, C, h, w)` after each stage, the last ones normalized."""
        image = self.layout(observation, self.patches.weight.dtype)  # (B, C, H, W)
        x = self.patch_norm(self.patches(image).movedim(1, -1))  # (B, h, w, dim)
        x = functional.dropout(x, self.dropout, self.training)
        outputs = []
        for number, stage in enumerate(self.stages):
            if number > 0:
                x = self.mergings[number - 1](x)
            x = stage(x)
            outputs.append(x)
        outputs[-1] = self.norm(x)
        return [output.movedim(-1, 1) for output in outputs]

    def forward(self, observation: Tensor) -> Tensor:
        return self.maps(observation)[-1].mean((2, 3))


def _merged(sides: tuple[int, int], stage: int) -> tuple[int, int]:
    if sides[0] % 2 or sides[1] % 2:
        raise ValueError(
            f"the {sides[0]}x{sides[1]} tokens of stage {stage} cannot be merged two by two for stage {stage + 1}: use "
            "fewer stages, another patch, or an image whose sides are multiples of patch * 2^(stages - 1)"
        )
    return sides[0] // 2, sides[1] // 2
