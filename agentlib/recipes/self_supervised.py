"""Learning features without labels, put together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from agentlib.backbones import MLP, adam
from agentlib.backbones.randomness import host_generator_kept
from agentlib.data import Batches, Dataset, Splits, dataset, split
from agentlib.data.augmentation import (
    Augmentation,
    Change,
    RandomCrop,
    RandomFlip,
    RandomLight,
    RandomNoise,
    RandomRotation,
    RandomShift,
)
from agentlib.evaluation import charts, pictures
from agentlib.evaluation.probe import floors, linear_probe, nudged
from agentlib.learners.self_supervised.simclr import Projector, SimCLR, SimCLRConfig
from agentlib.recipes.backbones import BackboneChoice, backbone_for_examples
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, choose_device, fresh_weights

LABELS_PER_CLASS = 10
WIDTHS = (512, 512, 128)
SMALL_IMAGE = 16
"""Images with a side up to this get layers of WIDTHS by default, larger ones a residual network."""

REFERENCES = {
    "test/probe": Reference(0.888, "digits, another implementation, 60 epochs of batches of 256"),
    "test/pixels": Reference(0.496, "digits, scikit-learn's logistic regression"),
    "test/pixels_1nn": Reference(0.601, "digits, scikit-learn's nearest neighbour"),
    "test/nudged_labels": Reference(0.715, "digits, scikit-learn's logistic regression"),
    "test/nudged_labels_1nn": Reference(0.916, "digits, scikit-learn's nearest neighbour"),
}


def build_simclr(
    config: SimCLRConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A SimCLR run on the images of a data set; labels, where there are any, only judge the features.

    Raises:
        ValueError: the data holds no images.
    """
    data = dataset(problem.data)
    if data.x.dim() != 4:
        raise ValueError(f"simclr learns from images (N, C, H, W), this data is {tuple(data.x.shape)}; try digits")
    steps = problem.steps or 0
    labelled = data.y is not None and bool(data.classes)
    parts = split(data, seed, validation=0.0) if labelled else Splits(data, *[Dataset(data.x[:0])] * 2)
    with fresh_weights(seed):
        network = Projector(_encoder(parts.train, backbone, config), config.projection_dim)
    random = {"test/random_encoder": float(_probe(network.backbone, parts, seed))} if labelled else {}
    network.to(choose_device(device, network))
    views = Augmentation(*_changes(config))
    source = Batches(Dataset(parts.train.x), config.batch_size, transform=views, views=2, seed=seed)
    learner = SimCLR(network, adam(config.learning_rate), config)
    found: dict[str, float] = {}

    def finish() -> dict[str, float]:
        if labelled:
            found["test/probe"] = _probe(network.backbone, parts, seed)
            scores = floors(parts.train, nudged(parts.test), per_class=LABELS_PER_CLASS, seed=seed)
            found.update(random, **{f"test/{name}": float(values.mean()) for name, values in scores.items()})
        return found

    def draw(folder: Path) -> list[Path]:
        shown = parts.train.x[:10]
        with host_generator_kept():
            rows = {"image": shown, "first view": views(shown), "second view": views(shown)}
        drawn = [pictures.save(charts.rows_of_images(rows, "What is to be found again"), folder / "views.png")]
        if found:
            title = f"Accuracy on nudged test images, {LABELS_PER_CLASS} labels per class"
            chart = charts.bars(
                {name.removeprefix("test/"): value for name, value in found.items()}, title, "accuracy", ["probe"]
            )
            drawn.append(pictures.save(chart, folder / "probe.png"))
        return drawn

    return Job(
        learner=learner,
        source=source.to(next(network.parameters()).device),
        updates=steps,
        steps=steps,
        product=lambda: network,
        finish=finish,
        references=REFERENCES if problem.key == "digits" else {},
        pictures=draw,
        tables={"epoch_updates": source.epoch_updates, "examples": len(parts.train), "test_examples": len(parts.test)},
    )


def _encoder(data: Dataset, backbone: BackboneChoice, config: SimCLRConfig) -> nn.Module:
    shape = tuple(data.x.shape[1:])
    if isinstance(backbone, str) and backbone in ("auto", "mlp"):
        if backbone == "mlp" or max(shape[1:]) <= SMALL_IMAGE:
            # With LayerNorm: without any normalization the probe is some points lower.
            return MLP(data.x[0].numel(), config.net_arch or WIDTHS, norm="layer")
        backbone = "resnet"
    return backbone_for_examples(data, backbone, config.net_arch)


def _probe(encoder: nn.Module, parts: Splits, seed: int) -> float:
    return float(linear_probe(encoder, parts.train, nudged(parts.test), per_class=LABELS_PER_CLASS, seed=seed).mean())


def _changes(config: SimCLRConfig) -> list[Change]:
    """The changes of a view that the config asks for."""
    possible: list[tuple[bool, Change]] = [
        (config.crop < 1.0, RandomCrop(config.crop)),
        (config.flip, RandomFlip()),
        (config.shift > 0, RandomShift(config.shift)),
        (config.rotation > 0.0, RandomRotation(config.rotation)),
        (config.brightness > 0.0 or config.contrast > 0.0, RandomLight(config.brightness, config.contrast)),
        (config.noise > 0.0, RandomNoise(config.noise)),
    ]
    return [change for asked, change in possible if asked]


RECIPES = (
    Recipe(
        "simclr",
        SimCLRConfig,
        build_simclr,
        "contrastive learning of features without labels (Chen et al. 2020), images",
        learns_from="images",
        needs=("data",),
        steps=1_000,
    ),
)
