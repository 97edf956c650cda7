"""Learning features from views of images: the views, and how good the features are.

Test images are shown as they are and moved by one pixel each way, which the labelled ones are not (`nudged`). Labels
that are moved, too, are a floor of their own: on small digits nearest neighbours of moved images are ahead of most
features. A probe says how good features are, no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.backbones.choice import space_of
from agentlib.core import Cosine
from agentlib.core.config import NonNegative, Range, Rate, Whole
from agentlib.core.randomness import host_generator_kept
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data import Batches, Dataset, Splits, parts
from agentlib.data.augmentation import nudged
from agentlib.data.loading import loaded
from agentlib.families.augmented import Augmented
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.features import alignment, effective_rank, spread, uniformity
from agentlib.metrics.probes import Features, few_labels, linear_probe, neighbour_probe
from agentlib.plots import charts, pictures
from agentlib.policies.base import require_no_memory

LABELS_PER_CLASS, DRAWS = 10, 10
"""Labelled examples of each class, and random choices of them, of which the mean accuracy is reported."""
PROBES = {"": linear_probe, "_1nn": neighbour_probe}
"""By the end of their names: linear classifiers, and nearest neighbours."""
MONITORED = 1_000
"""Test images whose features are looked at for a collapse, at most."""


@dataclass(frozen=True, kw_only=True)
class Views(Augmented):
    """The common fields of the configs of learners from views."""

    learning_rate: Rate = Cosine(1e-3)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Annotated[int, Range(2)] = 256
    """Images per update; each is seen in several views."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers of the encoder; the default depends on the kind of input."""
    shift: Whole = 1
    rotation: NonNegative = 15.0
    noise: NonNegative = 0.1


class ViewFacts(NamedTuple):
    """The problem of a learner from views."""

    space: spaces.Box
    """Of one image."""
    examples: int
    """Images in the training part."""


@family("images", needs=("data",), makes_agent=False, fields=("batch_size", "augmentation"), methods=("predict",))
def on_views(recipe: Recipe, problem: Problem) -> Job:
    """Learning features from views; labels, where there are any, only judge them.

    The config has the fields of `Views`. Batches hold `(views, B, ...)`, by the learner's attribute `views`, or two;
    its attribute `auto` names the backbone that it takes by default. `learner.network` is the product and has the
    encoder as its `backbone`; `learner.predict(x)` gives the features.

    Raises:
        ValueError: the data holds no images.
    """
    found = loaded(problem.data)
    data = found if isinstance(found, Dataset) else found["train"]
    if data.x.dim() != 4:
        shape = tuple(data.x.shape)
        raise ValueError(f"{recipe.name} learns from images (N, C, H, W), this data is {shape}; try digits")
    is_labelled = data.y is not None and bool(data.classes)
    splits = parts(found, problem.seed, validation=0.0) if is_labelled else Splits(data, *[Dataset(data.x[:0])] * 2)
    facts = ViewFacts(space_of(data.x), len(splits.train))
    if problem.backbone == "auto" and hasattr(recipe.learner, "auto"):  # it needs a network of one kind
        problem = replace(problem, backbone=recipe.learner.auto)
    # With LayerNorm: without any normalization the probe of an MLP is some points lower.
    layers = {"norm": "layer"} | recipe.learner.layers(problem.config)
    network = partial(network_for, problem, facts.space, **layers)
    learner: Any = learner_for(recipe, problem, network, facts)
    require_no_memory(learner.network.backbone, recipe.name)
    config, views = problem.config, getattr(learner, "views", 2)
    source = Batches(
        Dataset(splits.train.x), config.batch_size, transform=config.augmentation(), views=views, seed=problem.seed
    )
    return job_for(problem, learner, source, learner.network, ViewsJudge(learner, source, splits, problem))


class ViewsJudge(Judge):
    """A linear classifier on frozen features and few labels, beside what these labels give without the features."""

    def __init__(self, learner: Any, source: Batches, splits: Splits, problem: Problem) -> None:
        super().__init__()
        self.learner, self.splits, self.seed = learner, splits, problem.seed
        self.view, self.measures = problem.config.augmentation(), list[Measure]()
        sizes = {"examples": len(splits.train), "test_examples": len(splits.test)}
        self.facts |= {"epoch_updates": source.epoch_updates, **sizes}
        self.is_labelled = len(splits.test) > 0
        if self.is_labelled:
            self.truth = np.tile(splits.test.targets.numpy(), 5)  # of the nudged test images
            labels = splits.train.targets.numpy()
            per_class = min(LABELS_PER_CLASS, int(np.unique(labels, return_counts=True)[1].min()))
            generator = np.random.default_rng([problem.seed, 5])
            rows = np.stack([few_labels(labels, per_class, generator) for _ in range(DRAWS)])
            self.labels, self.labelled = labels[rows], splits.train.x[torch.from_numpy(rows)]  # (draws, n, ...)
            self.facts["labels_per_class"] = per_class
            self.untrained = self.probed()

    def probed(self) -> dict[str, float]:
        """Mean accuracies on the learner's features, by the ends of `PROBES`."""
        features = self.features(self.labelled.flatten(0, 1)).reshape(*self.labels.shape, -1)
        test = self.features(nudged(self.splits.test.x))
        return {end: float(probe(features, self.labels, test, self.truth).mean()) for end, probe in PROBES.items()}

    def features(self, x: Tensor) -> Features:
        """The learner's features of images, `(N, d)`."""
        return predicted(self.learner, x.to(device_of(self.learner))).flatten(1).float().cpu().numpy()

    def floors(self) -> dict[str, float]:
        """Accuracies without learned features: on pixels, and on those of labelled images that are nudged, too."""
        accuracies, test = {}, nudged(self.splits.test.x).flatten(1).float().numpy()
        moved = torch.stack([nudged(images) for images in self.labelled])
        for name, images in (("pixels", self.labelled), ("nudged_labels", moved)):
            pixels = images.flatten(2).float().numpy()  # (draws, n, d)
            labels = np.tile(self.labels, pixels.shape[1] // self.labels.shape[1])
            for end, probe in PROBES.items():
                accuracies[name + end] = float(probe(pixels, labels, test, self.truth).mean())
        return accuracies

    def monitors(self) -> dict[str, float]:
        """Whether the features of test images have collapsed; see `agentlib.metrics.features`."""
        images = self.splits.test.x[:MONITORED]
        with host_generator_kept():
            torch.default_generator.manual_seed(self.seed)
            views = [self.view(images) for _ in range(2)]
        first, second = (torch.from_numpy(self.features(view)) for view in views)
        found = {"spread": spread(first), "rank": effective_rank(first), "uniformity": uniformity(first)}
        return {name: float(value) for name, value in (found | {"alignment": alignment(first, second)}).items()}

    def finish(self) -> list[Measure]:
        if self.is_labelled:
            whose, random = "the untrained encoder", {f"random_encoder{end}": n for end, n in self.untrained.items()}
            learned = [Measure(f"test/probe{end}", n, self.untrained[end], whose) for end, n in self.probed().items()]
            self.measures = [*learned, *[Measure(f"test/{name}", n) for name, n in (random | self.floors()).items()]]
            self.accuracies = {one.name.removeprefix("test/"): one.value for one in self.measures}
            if len(self.splits.test) > 1:
                self.measures += [Measure(f"test/{name}", n) for name, n in self.monitors().items()]
        return self.measures

    def draw(self, folder: Path) -> list[Path]:
        images = self.splits.train.x[:10]
        with host_generator_kept():
            torch.default_generator.manual_seed(self.seed)
            rows = {"image": images, "first view": self.view(images), "second view": self.view(images)}
        figures = {"views": charts.rows_of_images(rows, "Two views of each image")}
        if self.measures:
            title = f"Accuracy on nudged test images, {self.facts['labels_per_class']} labels per class"
            figures["probe"] = charts.bars(self.accuracies, title, "accuracy", ["probe", "probe_1nn"])
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
