"""Denoisers: networks that give the velocity of a noisy sample, at a time and perhaps with a condition.

`DiffusionModel` has the formula. Times go from 0 to 1, and are read as waves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones.mlp import MLP
from agentlib.backbones.specs import Described
from agentlib.backbones.unet import UNet

SMALL_IMAGE = 64
"""Images of more pixels than this get a U-Net by default."""


def waves(x: Tensor, frequencies: Tensor) -> Tensor:
    """sin and cos of each number `(B, d)` at each frequency `(f,)`: `(B, 2 d f)`."""
    angles = (x[:, :, None] * frequencies).flatten(1)  # (B, d f)
    return torch.cat([angles.sin(), angles.cos()], 1)


def time_rates() -> Tensor:
    """The frequencies `(16,)` of the waves of the time, which goes from 0 to 1."""
    return torch.logspace(0, 1, 16)


def condition_inputs(condition: Tensor | None, condition_dim: int, like: Tensor) -> list[Tensor]:
    """The condition `(B, condition_dim)` as a list of inputs: zeros where it is None, empty for `condition_dim` 0.

    Raises:
        ValueError: it has another shape.
    """
    if not condition_dim:
        return []
    if condition is None:
        return [like.new_zeros(like.shape[0], condition_dim)]
    if condition.shape != (like.shape[0], condition_dim):
        raise ValueError(
            f"the condition has shape {tuple(condition.shape)}, and {(like.shape[0], condition_dim)} is needed: "
            "(B, condition_dim)"
        )
    return [condition]


class MLPDenoiser(Described):
    """The velocity, by an MLP on x, waves of x, waves of the time, and a condition.

    Without the waves, an MLP blurs structure that is much finer than the data is wide.

    Args:
        shape: of one sample.
        hidden: widths of the layers.
        condition_dim: numbers in a condition; 0 for none.
        frequencies: of the waves of x.
        learn_variance: give as many numbers again, the logits of the variance that `DiffusionModel` learns.
    """

    kind = "mlp_denoiser"

    frequencies: Tensor
    rates: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (128, 128, 128),
        condition_dim: int = 0,
        frequencies: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0),
        learn_variance: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.hidden, self.condition_dim = tuple(shape), tuple(hidden), int(condition_dim)
        self.learn_variance = bool(learn_variance)
        self.register_buffer("frequencies", torch.tensor(list(map(float, frequencies))), persistent=False)
        self.register_buffer("rates", time_rates(), persistent=False)
        size = math.prod(self.shape)
        inputs = size * (1 + 2 * len(self.frequencies)) + 2 * len(self.rates) + self.condition_dim
        self.trunk = MLP(inputs, self.hidden, "silu")
        self.head = nn.Linear(self.trunk.feature_dim, size * (1 + self.learn_variance))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocities `(B, *shape)` for x `(B, *shape)`, times `(B,)` from 0 to 1, conditions `(B, condition_dim)`.

        With `learn_variance` the first axis of a sample is twice as long: velocities, then logits.
        """
        flat = x.flatten(1)  # (B, d)
        inputs = [flat, waves(flat, self.frequencies), waves(time[:, None], self.rates)]
        inputs += condition_inputs(condition, self.condition_dim, flat)
        velocity: Tensor = self.head(self.trunk(torch.cat(inputs, 1)))
        return velocity.view(x.shape[0], self.shape[0] * (1 + self.learn_variance), *self.shape[1:])


class UNetDenoiser(Described):
    """The velocity of images, by a U-Net whose blocks see time and condition.

    Args:
        shape: of one image, `(C, H, W)`.
        widths: channels at each size.
        condition_dim: numbers in a condition; 0 for none.
        embedding_dim: width of the embedding of time and condition that the blocks see.
        learn_variance: as `MLPDenoiser` has it.
    """

    kind = "unet_denoiser"

    rates: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (32, 64),
        condition_dim: int = 0,
        embedding_dim: int = 128,
        learn_variance: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.condition_dim, self.embedding_dim = tuple(shape), int(condition_dim), int(embedding_dim)
        self.learn_variance = bool(learn_variance)
        self.register_buffer("rates", time_rates(), persistent=False)
        inputs = 2 * len(self.rates) + self.condition_dim
        self.embedding = MLP(inputs, (self.embedding_dim, self.embedding_dim), "silu")
        channels = self.shape[0] * (1 + self.learn_variance)
        self.unet = UNet(self.shape, channels, widths=widths, condition_dim=self.embedding_dim)
        self.widths = self.unet.widths

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocities `(B, C, H, W)` for x, times `(B,)` from 0 to 1, conditions `(B, condition_dim)`."""
        inputs = [waves(time[:, None], self.rates), *condition_inputs(condition, self.condition_dim, x)]
        velocity: Tensor = self.unet(x, self.embedding(torch.cat(inputs, 1)))
        return velocity


def denoiser_for(
    shape: Sequence[int],
    backbone: Any = "auto",
    hidden: Sequence[int] = (128, 128, 128),
    condition_dim: int = 0,
    learn_variance: bool = False,
) -> nn.Module:
    """A denoiser of samples: "auto" means layers of `hidden`, and a U-Net for images of more than 64 pixels.

    Args:
        shape: of one sample.
        backbone: "auto", "mlp", "unet", or a built denoiser, which is taken as it is.
        hidden: widths of the layers of "mlp".
        condition_dim: numbers in a condition; 0 for none.
        learn_variance: as `MLPDenoiser` has it; a built denoiser has its own.

    Raises:
        ValueError: another backbone, or a U-Net for samples that are no images.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    is_image = len(shape) == 3
    if backbone == "unet" or (backbone == "auto" and is_image and math.prod(shape[1:]) > SMALL_IMAGE):
        if not is_image:
            raise ValueError(f"a U-Net takes images (C, H, W), and an example of this data is {tuple(shape)}")
        return UNetDenoiser(shape, condition_dim=condition_dim, learn_variance=learn_variance)
    if backbone not in ("auto", "mlp"):
        raise ValueError(f"diffusion takes backbone auto, mlp, unet, or a module such as MLPDenoiser, not {backbone!r}")
    return MLPDenoiser(shape, hidden, condition_dim, learn_variance=learn_variance)
