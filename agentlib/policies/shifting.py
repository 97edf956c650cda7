"""Random shifts of the images that a policy observes (DrQ; Kostrikov et al. 2021, arXiv:2004.13649)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from agentlib.backbones.images import ImageBackbone
from agentlib.data.augmentation import RandomShift


def shifted(policy: nn.Module, observation: Any, pixels: int) -> Any:
    """A batch of images, each moved by up to `pixels` in each direction, its outermost pixels repeated; any layout.

    With 0 pixels the observations may be of any kind, and come back as they are.

    Raises:
        ValueError: the policy observes something else than single images.
    """
    if not pixels:
        return observation
    layouts = {module.layout for module in policy.modules() if isinstance(module, ImageBackbone)}
    if len(layouts) != 1 or not isinstance(observation, Tensor) or getattr(policy, "is_sequence", False):
        raise ValueError("random_shift moves images, and this network does not read single images: leave it at 0")
    (layout,) = layouts
    images = RandomShift(pixels)(layout(observation))  # (B, C, H, W)
    if layout.channels_last and layout.channels > 1:
        images = images.unflatten(1, (*layout.shape[:-3], layout.shape[-1])).movedim(-3, -1)
    return images.reshape(observation.shape)
