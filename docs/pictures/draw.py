"""Draws the networks of docs/backbones.md: one box for each map that the real network gives, as high as its sides and
as wide as its channels, both on a logarithmic scale.

    python docs/pictures/draw.py
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from agentlib.backbones import MLP, NatureCNN, ResNet, Swin, UNet, ViT

FOLDER = Path(__file__).parent
GREY, BLUE, FONT = "#8a8f98", "#4c78a8", 'font-family="sans-serif" font-size="9"'


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Each network with an observation, by the name of the file."""
    with torch.random.fork_rng(devices=[]):
        return {
            "mlp": (MLP(4, (64, 64)), torch.zeros(1, 4)),
            "nature_cnn": (NatureCNN((4, 84, 84)), torch.zeros(1, 4, 84, 84)),
            "resnet18": (ResNet.named("resnet18", (3, 224, 224)), torch.zeros(1, 3, 224, 224)),
            "unet": (UNet((3, 64, 64)), torch.zeros(1, 3, 64, 64)),
            "vit": (ViT((3, 32, 32)), torch.zeros(1, 3, 32, 32)),
            "swin": (Swin((3, 224, 224)), torch.zeros(1, 3, 224, 224)),
        }


def forms(network: nn.Module, observation: Tensor) -> list[tuple[int, ...]]:
    """Shapes of one sample, from the observation to the features."""
    with torch.no_grad():
        network.eval()
        maps = [tuple(one.shape[1:]) for one in network.maps(observation)]  # type: ignore[operator]
        back = maps[-2::-1] if isinstance(network, UNet) else []  # the decoder's, which mirror the encoder's
        features = tuple(network(observation).shape[1:])
        return [tuple(observation.shape[1:]), *maps, *back, *([] if maps[-1] == features else [features])]


def box(form: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of a box; a vector `(d,)` stands upright, tokens `(N, d)` and maps `(C, H, W)` have both."""
    if len(form) == 1:
        return 8.0, 9.0 * math.log2(form[0] + 1)
    channels, places = (form[1], form[0]) if len(form) == 2 else (form[0], form[1] * form[2])
    return 5.0 * math.log2(channels + 1), 6.0 * math.log2(places + 1)


def picture(shapes: list[tuple[int, ...]]) -> str:
    """The SVG of boxes in a row."""
    parts, x, height = [], 10.0, 110.0
    for i, form in enumerate(shapes):
        width, high = box(form)
        label = "x".join(map(str, form))
        slot = max(width, 5.2 * len(label))
        left, top = x + (slot - width) / 2, (height - high) / 2 + 5
        colour = GREY if i in (0, len(shapes) - 1) else BLUE
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{high:.1f}" rx="2" fill="{colour}"/>'
        )
        parts.append(f'<text x="{x + slot / 2:.1f}" y="132" text-anchor="middle" fill="{GREY}" {FONT}>{label}</text>')
        x += slot + 14.0
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:.0f}" height="140">\n' + "\n".join(parts) + "\n</svg>\n"


def pictures() -> dict[str, str]:
    """The content of each file, by its name."""
    return {f"{name}.svg": picture(forms(*given)) for name, given in networks().items()}


if __name__ == "__main__":
    for name, content in pictures().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
