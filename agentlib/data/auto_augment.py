"""Operations on images at random, one after the other: AutoAugment's published policies, and AugMix.

AutoAugment (Cubuk et al. 2019, arXiv:1805.09501) searched, on a data set, for 25 pairs of operations. Each image gets
one pair at random, each operation of it with its own probability. `search` does so at random, without the controller
that the paper trains for it, and joins the best of several policies of five pairs as the paper does. AugMix (Hendrycks
et al. 2020, arXiv:1912.02781) mixes three chains of one to three operations with the image itself,

    x' = m x + (1 - m) sum_i w_i chain_i(x),     w ~ Dirichlet(1, 1, 1),  m ~ Beta(1, 1)

and has a loss that asks for the same prediction on the image and two such mixtures: `consistency` of a classifier.

The sizes of operations are AutoAugment's: at size 1 images are turned by 30 degrees, sheared by 0.3, moved by 45% of
their side, brightness, contrast, colour and sharpness change by 90%, 4 of 8 bits are left, and all numbers are
inverted. AugMix has smaller sizes of the same; it leaves out what its paper's test images are corrupted by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.core.names import look_up
from agentlib.core.numbers import whole
from agentlib.data import colours
from agentlib.data.augmentation import resampled

SPATIAL = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDED = ("brightness", "contrast", "colour", "sharpness")
OPERATIONS = (*SPATIAL, *BLENDED, "posterize", "solarize", "auto_contrast", "equalize", "invert")
"""By number; the last three have no size."""
SHEAR, MOVE, TURN, FACTOR, BITS = 0.3, 150 / 331, 30.0, 0.9, 4.0
"""At size 1: shear, share of the side, degrees, change of a factor, bits that are left out."""
MIXED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""Operations of AugMix."""

Policy = Literal["cifar10", "imagenet", "svhn"]
"""The data set that a policy of AutoAugment was found on."""
Pairs = list[list[tuple[str, float, float]]]
"""Names of operations, their probabilities, and their sizes between 0 and 1; two operations in each pair."""
_CODES = dict(zip("xyXYRbcCspzaei", OPERATIONS, strict=True))
_PUBLISHED = {
    "cifar10": "i1- c26, R72 X39, s81 s93, y58 Y79, a5- e9-, y27 p37, C43 b67, s39 b79, e6- e5-, c67 s65, C77 X58, "
    "e3- a4-, Y43 s26, b96 C28, z52 i0-, e2- a6-, e2- e6-, C99 e6-, a8- z28, b13 C70, z45 a9-, Y99 Y79, a9- z83, "
    "e8- i1-, Y79 a9-",
    "imagenet": "p48 R69, z65 a6-, e8- e6-, p67 p66, e4- z24, e4- R88, z63 e6-, p85 eA-, R23 z68, e6- p46, R88 C40, "
    "R49 e6-, e0- e8-, i6- eA-, C64 cA8, R88 CA2, C88 z87, s47 i6-, x65 eA-, C40 e6-, e4- z24, z65 a6-, i6- eA-, "
    "C64 cA8, e8- e6-",
    "svhn": "x94 i2-, y98 i7-, e6- z66, i9- e6-, e6- R93, x94 a8-, y98 i4-, y95 z26, i9- a8-, e6- R93, x94 z33, "
    "y88 i7-, e9- Y66, i9- e6-, c33 R84, i8- Y02, y76 z48, i6- R84, y37 X93, x16 i6-, z72 Y67, y84 i8-, x79 Y83, "
    "y85 a7-, x72 i1-",
}
"""The 25 pairs of the paper's tables: the letter of an operation, its probability in tenths (A is 1), its size of 9."""


def published(policy: Policy) -> Pairs:
    """The pairs of a policy."""

    def read(text: str) -> tuple[str, float, float]:
        size = 0.0 if text[2] == "-" else int(text[2]) / 9
        return _CODES[text[0]], int(text[1], 16) / 10, size

    return [[read(text) for text in pair.split()] for pair in _PUBLISHED[policy].split(", ")]


def search(score: Callable[[Pairs], float], *, trials: int = 25, kept: int = 5, pairs: int = 5, seed: int = 0) -> Pairs:
    """The pairs of the best of random policies, for `AutoAugment`; probabilities are tenths and sizes ninths.

    Args:
        score: of the pairs of a policy, such as the accuracy on validation examples of a small network that learned
            with `AutoAugment(pairs)`.
        trials: policies that are tried.
        kept: policies of the largest scores, whose pairs are joined.
        pairs: in each policy.
        seed: of the policies.

    Raises:
        ValueError: more policies are to be kept than are tried.
    """
    if not 1 <= kept <= trials:
        raise ValueError(f"of {trials} policies that are tried at most as many are kept, not {kept}")
    generator = np.random.default_rng(whole("seed", seed))

    def operation() -> tuple[str, float, float]:
        code, tenths, ninths = generator.integers((len(OPERATIONS), 11, 10)).tolist()
        return OPERATIONS[code], tenths / 10, ninths / 9

    tried = [[[operation(), operation()] for _ in range(pairs)] for _ in range(trials)]
    best = sorted(tried, key=score, reverse=True)[:kept]
    return [pair for policy in best for pair in policy]


def operate(images: Tensor, operation: Tensor, size: Tensor) -> Tensor:
    """One operation on each image.

    Args:
        images: `(B, C, H, W)`, floating-point numbers between 0 and 1.
        operation: `(B,)` int64, numbers of `OPERATIONS`.
        size: `(B,)` between -1 and 1. The sign is the direction; posterizing and solarizing have none.
    """
    which, zero = operation[:, None, None, None], torch.zeros_like(size)
    height, width = images.shape[-2:]
    shear_x, shear_y, move_x, move_y, turn = [torch.where(operation == i, size, zero) for i in range(len(SPATIAL))]
    angle = turn * (TURN * math.pi / 180.0)
    across = (SHEAR * shear_x - angle.sin()) * (height / width)
    down = (SHEAR * shear_y + angle.sin()) * (width / height)
    first = torch.stack([angle.cos(), across, -2.0 * MOVE * move_x], 1)  # (B, 3), from new places to old
    second = torch.stack([down, angle.cos(), -2.0 * MOVE * move_y], 1)
    found = torch.where(which < 5, resampled(images, torch.stack([first, second], 1), "zero"), images)

    brightness = colours.grey(images)
    others = torch.where(which == 6, brightness.mean((2, 3), keepdim=True), torch.zeros_like(images))
    others = torch.where(which == 7, brightness, others)
    others = torch.where(which == 8, colours.blurred(images), others)
    found = torch.where((which > 4) & (which < 9), colours.blend(images, others, 1.0 + FACTOR * size), found)

    found = torch.where(which == 9, colours.posterize(images, 8.0 - (BITS * size.abs()).round()), found)
    found = torch.where(which == 10, colours.solarize(images, 1.0 - size.abs()), found)
    found = torch.where(which == 11, colours.auto_contrast(images), found)
    found = torch.where(which == 12, colours.equalize(images), found)
    return torch.where(which == 13, 1.0 - images, found)


def _signs(like: Tensor) -> Tensor:
    """-1 or 1, each as often."""
    return torch.where(torch.rand_like(like) < 0.5, -torch.ones_like(like), 1.0)


class AutoAugment(nn.Module):
    """A published policy of AutoAugment, or pairs such as `search` finds, on images `(B, C, H, W)` between 0 and 1."""

    table: Tensor

    def __init__(self, policy: Policy | Sequence[Sequence[tuple[str, float, float]]] = "cifar10") -> None:
        super().__init__()
        pairs = published(policy) if isinstance(policy, str) else policy
        codes = {name: code for code, name in enumerate(OPERATIONS)}
        numbers = [[(look_up("operation", name, codes), *rest) for name, *rest in pair] for pair in pairs]
        self.register_buffer("table", torch.tensor(numbers, dtype=torch.float32), persistent=False)  # (25, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        images, table = images.clamp(0.0, 1.0), self.table.to(images.device)
        pairs = table[torch.randint(len(table), (len(images),), device=images.device)]  # (B, 2, 3)
        for pair in pairs.unbind(1):
            operation, probability, size = pair.unbind(1)
            changed = operate(images, operation.long(), size * _signs(size))
            happens = torch.rand_like(probability) < probability
            images = torch.where(happens[:, None, None, None], changed, images)
        return images


class AugMix(nn.Module):
    """Mixtures of an image and three chains of operations, for images `(B, C, H, W)` between 0 and 1.

    Args:
        severity: largest size of an operation, in tenths.
    """

    codes: Tensor

    def __init__(self, severity: float = 3.0) -> None:
        super().__init__()
        self.severity = severity
        self.register_buffer("codes", torch.tensor([OPERATIONS.index(name) for name in MIXED]), persistent=False)

    def one(self, images: Tensor) -> Tensor:
        """One operation on each image."""
        codes = self.codes.to(images.device)
        operation = codes[torch.randint(len(codes), (len(images),), device=images.device)]
        size = torch.rand(len(images), dtype=torch.float32, device=images.device) * (self.severity / 10.0)
        return operate(images, operation, size * _signs(size))

    def forward(self, images: Tensor) -> Tensor:
        n, images = len(images), images.clamp(0.0, 1.0)
        chains, depth = images.repeat(3, 1, 1, 1), torch.randint(1, 4, (3 * n,), device=images.device)
        for step in range(3):
            chains = torch.where((step < depth)[:, None, None, None], self.one(chains), chains)
        share = -torch.rand(3, n, dtype=torch.float32, device=images.device).clamp_min(1e-12).log()
        share = (share / share.sum(0))[:, :, None, None, None]  # (3, n, 1, 1, 1)
        kept = torch.rand(n, dtype=torch.float32, device=images.device)[:, None, None, None]
        mixture: Tensor = (share * chains.unflatten(0, (3, n))).sum(0)
        return kept * images + (1.0 - kept) * mixture
