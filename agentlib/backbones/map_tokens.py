"""The last map of a network of images as a memory that a decoder attends to (Xu et al. 2015, arXiv:1502.03044).

    m_s = W f_s + p_s            f_s: the channels at place s of the map,  p_s: learned, of the place

A network without maps has one vector of features, which is a memory of one place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.layers import dtype_of
from agentlib.core.modes import in_eval_mode


class MapTokens(Backbone):
    """Tokens `(B, S, dim)`, one for each place of a map; the features are their mean.

    Args:
        backbone: of images; the last of its `maps` is read: `(B, C, h, w)`, tokens `(B, S, C)`, or features `(B, C)`.
        shape: of one image.
        dim: width of the tokens.
    """

    kind = "map_tokens"

    def __init__(self, backbone: Backbone | nn.Module, shape: Sequence[int], dim: int = 128) -> None:
        super().__init__()
        self.backbone, self.shape, self.dim, self.feature_dim = backbone, tuple(map(int, shape)), int(dim), int(dim)
        place = next(backbone.parameters(), torch.empty(0)).device
        example = torch.zeros(1, *self.shape, dtype=dtype_of(backbone), device=place)
        with in_eval_mode(backbone):
            last = self._last(example)
        self.grid = tuple(last.shape[2:]) if last.dim() == 4 else None
        """Height and width of the map; None for tokens and features, which lie in no rows and columns."""
        tokens = _rows(last)  # (1, S, C)
        self.linear = nn.Linear(tokens.shape[2], dim)
        self.places = nn.Parameter(torch.empty(tokens.shape[1], dim).normal_(std=0.02))

    def _last(self, image: Tensor) -> Tensor:
        maps = getattr(self.backbone, "maps", None)
        last: Tensor = self.backbone(image) if maps is None else maps(image)[-1]
        return last

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The tokens `(B, S, dim)` alone."""
        return [self.linear(_rows(self._last(observation))) + self.places]

    def forward(self, observation: Tensor) -> Tensor:
        return self.maps(observation)[-1].mean(1)


def _rows(last: Tensor) -> Tensor:
    """`(B, S, C)` of maps `(B, C, h, w)`, of tokens `(B, S, C)`, or of features `(B, C)`."""
    if last.dim() == 4:
        return last.flatten(2).transpose(1, 2)
    return last[:, None] if last.dim() == 2 else last
