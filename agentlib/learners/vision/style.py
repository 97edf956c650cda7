"""Style transfer: the content of one image in the style of another (Gatys et al. 2016, doi:10.1109/CVPR.2016.265).

    G_l = F_l F_l' / M_l,      E_l = 1/(4 N_l^2) |G_l - A_l|^2
    image = argmin_x  a |F_c(x) - F_c(content)|^2 / n  +  b sum_l w_l E_l(x)

F_l (N_l x M_l) is the map of layer l: N_l channels, M_l places. G_l is its Gram matrix, the correlations of channels,
and A_l that of the style image: which place is where does not matter. The network stays as it is; what is optimized, by
L-BFGS, is the image. With G_l divided by M_l the weight E_l is the paper's. We differ: the content's term is a mean,
and the image is cut off at 0 and 1 in the end. Any network with maps will do, an untrained one too (Ustyuzhaninov et
al. 2016, arXiv:1606.00021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.backbones.pixels import map_shapes
from agentlib.core.host import plain_torch
from agentlib.core.numbers import whole


def gram(maps: Tensor) -> Tensor:
    """The Gram matrices `(B, C, C)` of maps `(B, C, H, W)`, a mean over places."""
    flat = maps.flatten(2)  # (B, C, H * W)
    return flat @ flat.mT / flat.shape[-1]


def style_loss(maps: Sequence[Tensor], grams: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """sum_l w_l E_l, 0-dim, of maps `(1, C, H, W)` against Gram matrices `(1, C, C)`; by default w_l is 1 / layers."""
    shares = weights if weights is not None else [1.0 / len(grams)] * len(grams)
    errors = [(gram(one) - goal).square().mean() / 4.0 for one, goal in zip(maps, grams, strict=True)]
    return torch.stack([share * error for share, error in zip(shares, errors, strict=True)]).sum()


class Stylized(NamedTuple):
    """An image, and how near it came."""

    image: Tensor
    """`(1, C, H, W)` between 0 and 1."""
    style: list[float]
    """The style's loss before the first step, and after each."""
    content: list[float]
    """That of the content."""


@plain_torch()
def stylize(
    network: nn.Module,
    content: Tensor,
    style: Tensor,
    *,
    style_weight: float = 1e3,
    content_weight: float = 1.0,
    layers: Sequence[int] | None = None,
    content_layer: int = -1,
    weights: Sequence[float] | None = None,
    start: Tensor | None = None,
    steps: int = 50,
) -> Stylized:
    """The image with the content of one and the style of the other.

    Args:
        network: with `maps` of images, such as the backbone of a classifier or of a segmentation; it is not changed.
        content: `(C, H, W)` or `(1, C, H, W)`, between 0 and 1.
        style: likewise, of the same size.
        style_weight: b of the formula.
        content_weight: a.
        layers: numbers of the maps that make the style; all by default.
        content_layer: number of the map that makes the content.
        weights: w, one for each of `layers`; equal ones by default.
        start: the image to begin with; the content by default.
        steps: of L-BFGS, of up to 20 iterations each.

    Raises:
        ValueError: images of another shape, or a network without maps.
    """
    given = (content, style, content if start is None else start)
    first, second, x = (one.detach().float().reshape(1, *one.shape[-3:]) for one in given)
    if not first.shape == second.shape == x.shape:
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in (first, second, x))
        raise ValueError(f"content, style and start are images of one shape (C, H, W), not {shapes}")
    chosen = list(range(len(map_shapes(network, first.shape[1:]))) if layers is None else layers)
    parameters, in_training = list(network.parameters()), [one for one in network.modules() if one.training]
    learn = [parameter.requires_grad for parameter in parameters]
    maps_of: Any = network.maps
    try:
        network.eval().requires_grad_(False)
        goal, found = maps_of(first)[content_layer], maps_of(second)
        grams = [gram(found[layer]) for layer in chosen]

        def terms(image: Tensor) -> tuple[Tensor, Tensor]:
            maps = maps_of(image)
            error = (maps[content_layer] - goal).square().mean()
            return style_loss([maps[layer] for layer in chosen], grams, weights), error

        return _optimized(x, terms, (style_weight, content_weight), whole("steps", steps))
    finally:
        for module in in_training:  # not `train()`, which would reach those that were in eval mode
            module.training = True
        for parameter, flag in zip(parameters, learn, strict=True):
            parameter.requires_grad_(flag)


def _optimized(x: Tensor, terms: Any, weights: tuple[float, float], steps: int) -> Stylized:
    """The image at which the weighed sum of the two terms is least."""
    x = x.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([x], history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        style, content = terms(x)
        loss: Tensor = weights[0] * style + weights[1] * content
        (x.grad,) = torch.autograd.grad(loss, [x])
        return loss

    curves: tuple[list[float], list[float]] = ([], [])
    for step in range(steps + 1):
        if step:
            optimizer.step(closure)
        with torch.no_grad():
            for curve, term in zip(curves, terms(x), strict=True):
                curve.append(float(term))
    return Stylized(x.detach().clamp(0.0, 1.0), *curves)
