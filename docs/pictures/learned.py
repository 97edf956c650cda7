"""The pictures of docs/generative.md and docs/self_supervised.md: what each learner makes.

    python docs/pictures/learned.py            # all of them, in about six minutes (extra plots)
    python docs/pictures/learned.py vae mae    # these again

Each is of models that short runs of its own have trained: of MNIST, where `AGENTLIB_DATA` names the folder with
`mnist.npz` (see `benchmarks/evidence/README.md`), of the small digits of 8 x 8 pixels, or of scenes. Nothing is chosen
from: examples are the first ones of a test part, samples those of the first seed.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

import agentlib
from agentlib.backbones import CNN, ViT
from agentlib.core.modes import in_eval_mode
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset, Splits, parts, shape_scenes
from agentlib.plots.pictures import new_figure

if TYPE_CHECKING:
    from PIL import Image

FOLDER = Path(__file__).parent / "learned"
MOST_BYTES = 100_000
COLUMNS, WIDTH = 10, 640
"""Images beside each other, and pixels of a picture."""
PLANES = ("simclr", "moco", "byol", "dino", "rotation")
"""Learners whose features are shown in a plane."""
KINDS = tuple(f"a {colour} {shape}" for shape in ("circle", "square", "triangle", "cross")
              for colour in ("red", "green", "blue", "yellow"))  # fmt: skip


@cache
def mnist() -> Splits:
    """MNIST, whose test part begins with ten digits of each class in turn, so that a picture shows all."""
    found = parts(str(Path(os.environ["AGENTLIB_DATA"]) / "mnist.npz"), 0)
    return Splits(found.train, found.validation.sampled(200), in_turn(found.test))


def in_turn(data: Dataset) -> Dataset:
    """The first example of each class, then the second one of each, and so on, twenty of each."""
    rows = torch.stack([(data.targets == one).nonzero()[:20, 0] for one in range(10)], 1)  # (20, 10)
    return data.take(rows.flatten())


def of_mnist(name: str, steps: int, data: Splits | Dataset | None = None, **how: Any) -> Any:
    """The model of a run on MNIST."""
    return agentlib.train(name, data=data or mnist(), steps=steps, progress=False, compile=False, **how)


def rows_of(*rows: Tensor) -> Image.Image:
    """Rows of grey images `(n, 1, H, W)` each, ink dark on white, wider gaps between them than between images."""
    from PIL import Image

    lines = []
    for row in rows:
        shown = functional.pad(row[:COLUMNS, 0].detach().float().clamp(0, 1), (0, 1, 0, 1))  # (n, H + 1, W + 1)
        lines.append(torch.cat([*shown], 1))
    grey = (255 * (1 - functional.pad(torch.cat(lines), (1, 0, 1, 0)))).byte().numpy()
    scale = max(WIDTH // grey.shape[1], 1)
    return Image.fromarray(grey).resize((grey.shape[1] * scale, grey.shape[0] * scale), Image.Resampling.NEAREST)


def first_generator() -> torch.Generator:
    """A generator of the first seed."""
    return torch.Generator().manual_seed(0)


# Generative models ---------------------------------------------------------------------------------------------------


def vae() -> Image.Image:
    """Test images, their reconstructions, and samples."""
    how: Any = {"likelihood": "bernoulli", "drawn_bits": True, "latent_dim": 20, "net_arch": (400, 400)}
    model = of_mnist("vae", 2_000, batch_size=100, **how).model
    with in_eval_mode(model):
        drawn = model.decode(torch.randn(COLUMNS, 20, generator=first_generator()))
        return rows_of(mnist().test.x, model.reconstruct(mnist().test.x[:COLUMNS]), drawn)


def gan() -> Image.Image:
    """Three samples of each label, in turn."""
    model = agentlib.train("gan", data="digits", steps=3_000, progress=False).model
    drawn = model.sample(30, torch.arange(30) % 10, generator=first_generator())
    return rows_of(*drawn.split(10))


def denoising_autoencoder() -> Image.Image:
    """Noisy digits and cleaned ones; digits with hidden squares, and filled in."""
    test, found = mnist().test.x[:COLUMNS], list[Tensor]()
    for change in ({"noise": 0.5}, {"corruption": "masking", "patch": 4, "mask_ratio": 0.6}):
        how: Any = {"latent_dim": 64, "net_arch": (512, 256), "batch_size": 128, "backbone": "mlp", **change}
        learner = of_mnist("denoising_autoencoder", 1_500, **how)
        if "noise" in change:
            spoilt = test + 0.5 * torch.randn(test.shape, generator=first_generator())
        else:
            kept = torch.rand(COLUMNS, 1, 7, 7, generator=first_generator()) >= 0.6
            spoilt = test * kept.repeat_interleave(4, 2).repeat_interleave(4, 3)
        with in_eval_mode(learner.model):
            found += [spoilt, learner.model(spoilt)]
    return rows_of(*found)


# Self-supervision ----------------------------------------------------------------------------------------------------


@cache
def encoder(name: str) -> Any:
    """The encoder that a short run on the small digits leaves, which saw no label."""
    data = Dataset(parts("digits", 0, validation=0.0).train.x)
    return agentlib.train(name, data=data, steps=250, net_arch=(512, 512, 128), progress=False, compile=False).backbone


def features(name: str) -> Tensor:
    """Directions `(N, d)` of the small test digits: their pixels, or the features of a learner's encoder."""
    x = parts("digits", 0, validation=0.0).test.x
    with torch.no_grad():
        codes = x.flatten(1) if name == "pixels" else encoder(name).eval()(x)
    return functional.normalize(codes.float() - codes.float().mean(0), dim=1)


def planes() -> Image.Image:
    """Features in the plane of their two greatest principal components, a colour for each digit."""
    figure, axes = new_figure((7.2, 5.0), 2, 3)
    labels = parts("digits", 0, validation=0.0).test.targets
    for one, name in zip(axes.flatten(), ("pixels", *PLANES), strict=True):
        codes = features(name)
        x, y = (codes @ torch.linalg.svd(codes, full_matrices=False).Vh[:2].T).T
        one.scatter(x, y, c=labels, cmap="tab10", s=4)
        one.set_title(name, fontsize=9, loc="left")
        one.set_axis_off()
    return image_of(figure)


def neighbours() -> Image.Image:
    """In each row a test digit, and those whose features are nearest, by SimCLR; the last two rows by pixels."""
    x, rows = parts("digits", 0, validation=0.0).test.x, list[Tensor]()
    for name, few in (("simclr", 4), ("pixels", 2)):
        codes = features(name)
        rows += [x[(codes @ codes[one]).topk(COLUMNS).indices] for one in range(few)]
    return rows_of(*rows)


def rotation() -> Image.Image:
    """Digits that were turned, and turned back by the angle that the network says."""
    result = of_mnist("rotation", 200, Dataset(mnist().train.x), batch_size=64)
    turns = torch.tensor([0, 1, 2, 3, 1, 2, 3, 0, 2, 1])
    turned = torch.stack([x.rot90(int(n), (1, 2)) for x, n in zip(mnist().test.x, turns, strict=False)])
    network = result.model
    with in_eval_mode(network):
        said = network(turned).argmax(1)
    return rows_of(turned, torch.stack([x.rot90(-int(n), (1, 2)) for x, n in zip(turned, said, strict=True)]))


def mae() -> Image.Image:
    """Digits, the patches that are seen, and all patches with the hidden ones predicted."""
    from agentlib.learners.self_supervised.mae import patches_of

    with fresh_weights(0):
        vit = ViT((1, 28, 28), patch=4, dim=64, layers=3, heads=4)
    model = of_mnist("mae", 600, Dataset(mnist().train.x), backbone=vit, batch_size=64).model
    x = mnist().test.x[:COLUMNS]
    with in_eval_mode(model), torch.random.fork_rng():
        torch.random.manual_seed(0)
        predicted, hidden = model(x)
    patches = patches_of(x, 4)
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    filled = predicted * (variance + 1e-6).sqrt() + mean  # it predicts patches less their mean, by their deviation

    def image(shown: Tensor) -> Tensor:
        return functional.fold(shown.mT, (28, 28), 4, stride=4)

    return rows_of(x, image(patches * ~hidden[..., None]), image(torch.where(hidden[..., None], filled, patches)))


def clip() -> Image.Image:
    """Pictures that training did not have, and which of 16 descriptions each is, by how much."""
    with fresh_weights(0):
        network = CNN((3, 36, 36), (32, "max", 32, "max", 64), feature_dim=128, norm="batch")
    scenes = shape_scenes(4_000, 0, size=36, most=1)
    model = agentlib.train("clip", data=scenes, backbone=network, steps=200, progress=False).model
    new = shape_scenes(5, 1, size=36, most=1).images
    chances = model.classify(new, list(KINDS))
    figure, axes = new_figure((8.0, 3.4), 2, 5)
    for column, (image, row) in enumerate(zip(new, chances, strict=True)):
        axes[0, column].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes[0, column].set_axis_off()
        best = row.topk(3)
        axes[1, column].barh(range(3), best.values, color="#56B4E9")
        for place, one in enumerate(best.indices):
            axes[1, column].text(0.03, place, KINDS[int(one)], fontsize=7, va="center")
        axes[1, column].invert_yaxis()
        axes[1, column].set(yticks=[], xlim=(0, 1))
        axes[1, column].tick_params(labelsize=7)
    return image_of(figure)


def image_of(figure: Any) -> Image.Image:
    """A figure as an image."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return Image.open(buffer).convert("RGB")


DRAWN: dict[str, Callable[[], Image.Image]] = {
    one.__name__: one
    for one in (
        *(vae, gan, denoising_autoencoder),
        *(planes, neighbours, rotation, mae, clip),
    )
}


def main(names: Sequence[str]) -> None:
    """Makes the pictures of these names, or all."""
    from PIL import Image as images

    FOLDER.mkdir(exist_ok=True)
    for name in names or DRAWN:
        image = DRAWN[name]()
        small = image if image.mode == "L" else image.quantize(64, dither=images.Dither.NONE)
        small.save(FOLDER / f"{name}.png", optimize=True)
        size = (FOLDER / f"{name}.png").stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{name}.png has {size:,} bytes, more than {MOST_BYTES:,}: show less, or fewer colours")


if __name__ == "__main__":
    main(sys.argv[1:])
