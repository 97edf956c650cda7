"""A detector of shapes and a picture in the style of another; it takes two to three minutes, since two CNNs learn.

python examples/see_shapes.py [--pictures 1500] [--updates 1500] [--steps 30]

Needs the extra plots. It writes see_shapes.png and style.png, whose third picture has the content of the first one
in the colours of the second.
"""

import argparse
from pathlib import Path

import torch

import agentlib
from agentlib.backbones import CNN
from agentlib.data import shape_scenes
from agentlib.learners.vision.style import stylize
from agentlib.plots import charts, pictures, scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()

    result = agentlib.train("detection", data=shape_scenes(arguments.pictures), steps=arguments.updates)
    print(result)
    new = shape_scenes(6, seed=1)
    with torch.no_grad():
        found = result.model.answer(new.images)
    for row, caption in enumerate(new.captions):
        print(f"{caption}: {result.model.describe(found[row])}")
    images = new.images.float() / 255
    pictures.save(scenes.boxes(images, {"found": found}, new.classes), Path("see_shapes.png"))

    # An untrained network will do for the style: channels that go together do so in most networks.
    network = CNN((3, 64, 64), (16, "average", 32, "average", 32), feature_dim=None, norm="none")
    styled = stylize(network, images[0], images[1], style_weight=1e4, steps=arguments.steps)
    print(f"style: {styled.style[0]:.3g} before, {styled.style[-1]:.3g} after")
    shown = torch.cat([images[:2], styled.image])
    pictures.save(charts.image_grid(shown, 3, "Content, style, and both"), Path("style.png"))


if __name__ == "__main__":
    main()
