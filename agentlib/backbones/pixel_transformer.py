"""Masked self-attention over pixels (Parmar et al. 2018, arXiv:1802.05751): numbers of each from those before it.

Pixels come row by row from the left, as tokens of a `TransformerDecoder`: token i is pixel i - 1, at the position of
pixel i. We differ in attention to all pixels before, not to blocks of them: the cost grows with their number squared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from agentlib.backbones.specs import Described
from agentlib.backbones.transformer import TransformerDecoder
from agentlib.core.progress import watched


class PixelTransformer(Described):
    """`(B, outputs, H, W)` from images, the numbers of a pixel from the pixels before it, as `GatedPixelCNN` has it.

    Args:
        shape: `(C, H, W)` of an image.
        outputs: numbers for each pixel.
        dim: width of the tokens.
        layers: one on top of the other.
        heads: of each attention; they divide the width.
        n_classes: of the labels; 0 for none.
        dropout: as `TransformerDecoder` has it.

    Raises:
        ValueError: no images, or heads that do not divide the width.
    """

    kind = "pixel_transformer"

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        n_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"a PixelTransformer takes images (C, H, W), and an example here is {tuple(shape)}")
        self.shape, self.outputs, self.dim = tuple(map(int, shape)), int(outputs), int(dim)
        self.layers, self.heads, self.n_classes, self.dropout = int(layers), int(heads), int(n_classes), float(dropout)
        self.pixels = self.shape[1] * self.shape[2]
        self.decoder = TransformerDecoder(
            self.shape[0] + 1 + self.n_classes,
            self.dim,
            self.layers,
            self.heads,
            positions="learned",
            max_length=self.pixels,
            window=self.pixels,
            dropout=self.dropout,
        )
        self.register_buffer("classes", torch.eye(self.n_classes), persistent=False)
        self.head = nn.Linear(self.dim, self.outputs)

    classes: Tensor

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """`(B, outputs, H, W)` for images `(B, C, H, W)` and labels `(B,)`."""
        pixels = image.flatten(2).transpose(1, 2)  # (B, pixels, C)
        first = self._token(pixels.new_zeros(len(image), 1, self.shape[0]), label, True)
        tokens = torch.cat([first, self._token(pixels[:, :-1], label, False)], 1)
        output: Tensor = self.head(self.decoder.whole(tokens))  # (B, pixels, outputs)
        numbers: Tensor = output.transpose(1, 2).unflatten(2, self.shape[1:])
        return numbers

    def _token(self, pixels: Tensor, label: Tensor | None, is_first: bool) -> Tensor:
        """The decoder's inputs `(B, T, C + 1 + n_classes)` of pixels `(B, T, C)`."""
        parts = [pixels, torch.full_like(pixels[..., :1], float(is_first))]
        if self.n_classes:
            classes = pixels.new_zeros(len(pixels), self.n_classes) if label is None else self.classes[label]
            parts.append(classes.to(pixels.dtype)[:, None].expand(-1, pixels.shape[1], -1))
        return torch.cat(parts, 2)

    @torch.no_grad()
    def generate(self, n: int, draw: Callable[[Tensor], Tensor], label: Tensor | None = None) -> Tensor:
        """n images `(n, C, H, W)`, pixel by pixel; keys and values of the pixels before are kept.

        Args:
            n: number of images.
            draw: the numbers of one pixel `(n, outputs)` to its values `(n, C)`.
            label: `(n,)`.
        """
        pixels = [self.head.weight.new_zeros(n, self.shape[0])]
        state = self.decoder.trimmed(self.decoder.initial_state(n), 0)
        for number in watched(range(self.pixels), "sampling"):
            features, state = self.decoder(self._token(pixels[-1][:, None], label, not number), state)
            pixels.append(draw(self.head(features[:, 0])).to(features.dtype))
        images: Tensor = torch.stack(pixels[1:], 2).unflatten(2, self.shape[1:])
        return images
