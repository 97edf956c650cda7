"""From an image to numbers for each of its pixels: a U-Net, or any network with maps and a decoder on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.layers import dtype_of
from agentlib.backbones.specs import Described
from agentlib.backbones.unet import MapDecoder, UNet
from agentlib.core.modes import in_eval_mode

WIDTH = 32
"""Features of each pixel that a decoder makes of other networks' maps."""


def map_shapes(backbone: nn.Module, shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """Channels, height and width of the maps that a network has of one image `(C, H, W)`.

    Raises:
        ValueError: it has none, such as an MLP.
    """
    example = torch.zeros(1, *shape, dtype=dtype_of(backbone), device=next(backbone.parameters()).device)
    with in_eval_mode(backbone):
        maps: list[Tensor] = getattr(backbone, "maps", lambda image: [])(example)
    found = [tuple(one.shape[1:]) for one in maps]
    if not found or any(len(one) != 3 for one in found):
        name = type(backbone).__name__
        raise ValueError(f"this needs a network with maps of the image, such as auto, cnn or resnet, and not a {name}")
    return [(one[0], one[1], one[2]) for one in found]


class PixelNetwork(Described):
    """`(B, outputs, H, W)` from images.

    Args:
        backbone: a `UNet`; or a network whose `maps` a `MapDecoder` takes, the last of each size.
        shape: `(C, H, W)` of an image.
        outputs: numbers for each pixel.
        classes: names of the outputs but the first, which is background; none where they are no classes.
    """

    kind = "pixels"

    def __init__(
        self, backbone: Backbone | nn.Module, shape: Sequence[int], outputs: int, classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.backbone, self.shape, self.outputs = backbone, tuple(map(int, shape)), int(outputs)
        self.classes = tuple(classes)
        self.decoder: MapDecoder | None = None
        self.chosen: list[int] = []
        width = int(backbone.feature_dim)  # type: ignore[arg-type]
        if not isinstance(backbone, UNet):
            sizes = map_shapes(backbone, self.shape)
            self.chosen = [i for i, one in enumerate(sizes) if i + 1 == len(sizes) or sizes[i + 1][1:] != one[1:]]
            self.decoder, width = MapDecoder([sizes[i][0] for i in self.chosen], WIDTH), WIDTH
        self.head = nn.Conv2d(width, self.outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        if self.decoder is None:
            features = self.backbone(image)
        else:
            maps = self.backbone.maps(image)  # type: ignore[operator]
            features = self.decoder([maps[i] for i in self.chosen], sides=(self.shape[1], self.shape[2]))
        output: Tensor = self.head(features)
        return output

    def answer(self, image: Tensor) -> Tensor:
        """The class of each pixel `(B, H, W)`, 0 for background; without classes its depth."""
        output = self(image)
        return output.argmax(1) if self.classes else output[:, 0].exp()  # type: ignore[no-any-return]

    def describe(self, answer: Tensor) -> str:
        """An answer `(H, W)` about one image in words."""
        if not self.classes:
            return (
                f"depths from {float(answer.min()):.3g} to {float(answer.max()):.3g}, mean {float(answer.mean()):.3g}"
            )
        shares = answer.flatten().bincount(minlength=len(self.classes) + 1) / answer.numel()
        named = zip(("background", *self.classes), shares.tolist(), strict=True)
        return ", ".join(f"{name} {share:.1%}" for name, share in named if share > 0)
