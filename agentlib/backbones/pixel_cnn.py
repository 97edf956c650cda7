"""Gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328): numbers for each pixel, from the pixels before it alone.

    v' = g(V * v)                               vertical stack: the rows above, to both sides
    h' = h + M g(H * h + A (V * v))             horizontal stack: the pixels on the left as well
    g(a, b) = tanh(a) sigmoid(b)

Pixels come row by row from the left. One stack of masked convolutions never sees some pixels above on the right (the
blind spot); two stacks see all. In place of masks, kernels end where a mask would begin, which costs half: the first
layer's before the pixel (mask A), the others' with it (mask B). We differ in a learned map of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.specs import Described
from agentlib.core.progress import watched


def gated(gates: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) `(B, C, H, W)` of a and b, `(B, 2 C, H, W)` together."""
    a, b = gates.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class GatedLayer(nn.Module):
    """One layer of both stacks. It sees `reach` pixels to each side, and the pixel itself unless it `is_first`."""

    def __init__(self, inputs: int, channels: int, reach: int, is_first: bool, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.reach, self.is_first = reach, is_first
        past = reach if is_first else reach + 1
        self.vertical = nn.Conv2d(inputs, 2 * channels, (past, 2 * reach + 1))
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, past))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.label = nn.Embedding(n_classes, 2 * channels) if n_classes else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next v and h `(B, C, H, W)`."""
        side = self.reach
        tall = self.down(functional.pad(v, (side, side, side, 0)), label)[:, :, : v.shape[2]]
        return gated(tall), self.right(functional.pad(h, (side, 0)), self.across(tall), h)

    def down(self, window: Tensor, label: Tensor | None) -> Tensor:
        """The vertical gates of rows, the padded rows above (and those rows) given."""
        tall: Tensor = self.vertical(window)
        return tall if self.label is None or label is None else tall + self.label(label)[:, :, None, None]

    def right(self, window: Tensor, across: Tensor, h: Tensor) -> Tensor:
        """The next h of pixels, the padded pixels on the left (and those pixels) and the vertical gates given."""
        wide = self.horizontal(window)[..., : across.shape[-1]] + across
        output: Tensor = self.mix(self.dropout(gated(wide)))
        return output if self.is_first else output + h


class GatedPixelCNN(Described):
    """`(B, outputs, H, W)` from images, the numbers of a pixel from the pixels before it.

    Args:
        shape: `(C, H, W)` of an image.
        outputs: numbers for each pixel.
        channels: of both stacks.
        layers: one on top of the other; `layers * (kernel // 2)` pixels are seen to each side.
        kernel: side of the whole kernel, odd.
        n_classes: of the labels; 0 for none.
        dropout: of the horizontal stack's gated features.

    Raises:
        ValueError: no images, or an even kernel.
    """

    kind = "gated_pixel_cnn"

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: int = 32,
        layers: int = 6,
        kernel: int = 5,
        n_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"a PixelCNN takes images (C, H, W), and an example of this data is {tuple(shape)}")
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"the kernel of a PixelCNN has an odd side from 3 on, not {kernel}")
        self.shape, self.outputs, self.channels = tuple(map(int, shape)), int(outputs), int(channels)
        self.layers, self.kernel = int(layers), int(kernel)
        self.n_classes, self.dropout = int(n_classes), float(dropout)
        inputs = [self.shape[0]] + [self.channels] * (self.layers - 1)
        self.stack = nn.ModuleList(
            GatedLayer(one, self.channels, self.kernel // 2, not number, self.n_classes, self.dropout)
            for number, one in enumerate(inputs)
        )
        self.place = nn.Parameter(torch.zeros(2, self.channels, *self.shape[1:]))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(self.channels, self.channels, 1), nn.ReLU(), nn.Conv2d(self.channels, self.outputs, 1)
        )

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """`(B, outputs, H, W)` for images `(B, C, H, W)` and labels `(B,)`."""
        v = h = image.to(self.place.dtype)
        for layer in self.stack:
            v, h = layer(v, h, label)
            if layer.is_first:
                v, h = v + self.place[0], h + self.place[1]
        output: Tensor = self.head(h)
        return output

    @torch.no_grad()
    def generate(self, n: int, draw: Callable[[Tensor], Tensor], label: Tensor | None = None) -> Tensor:
        """n images `(n, C, H, W)`, pixel by pixel.

        Each feature is computed once, so that all pixels together cost one pass, and not one pass each.

        Args:
            n: number of images.
            draw: the numbers of one pixel `(n, outputs)` to its values `(n, C)`.
            label: `(n,)`.
        """
        layers: list[GatedLayer] = list(self.stack)  # type: ignore[arg-type]
        side, (channels, height, width) = self.kernel // 2, self.shape
        inputs = [layer.vertical.in_channels for layer in layers]
        new = self.place.new_zeros
        image, left = new(n, channels, height, width), [new(n, one, 1, side + width) for one in inputs]
        sizes = [layer.vertical.kernel_size[0] for layer in layers]
        above = [new(n, one, size, side + width + side) for one, size in zip(inputs, sizes, strict=True)]
        for row in watched(range(height), "sampling"):
            across, v = [], image[:, :, row - 1 : row] if row else new(n, channels, 1, width)
            for number, layer in enumerate(layers):
                above[number] = torch.cat([above[number][:, :, 1:], functional.pad(v, (side, side))], 2)
                tall = layer.down(above[number], label)
                v = gated(tall) if number else gated(tall) + self.place[0, :, row : row + 1]
                across.append(layer.across(tall))
            for column in range(width):
                h = image[:, :, row : row + 1, column : column + 1]
                for number, layer in enumerate(layers):
                    if number:
                        left[number][..., side + column] = h[..., 0]
                    window = left[number][..., column : column + layer.horizontal.kernel_size[1]]
                    h = layer.right(window, across[number][..., column : column + 1], h)
                    if not number:
                        h = h + self.place[1, :, row : row + 1, column : column + 1]
                pixel = draw(self.head(h)[:, :, 0, 0])  # (n, C)
                image[:, :, row, column] = pixel
                left[0][:, :, 0, side + column] = pixel
        return image
