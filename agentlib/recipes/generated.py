"""What a generative run is judged by, and the pictures it leaves."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentlib.data import Dataset, Splits, parts
from agentlib.data.toys import MIXTURES
from agentlib.evaluation import sample_pictures
from agentlib.evaluation.samples import agreement, modes, nearest_neighbor_accuracy, pixel_deviation, wasserstein
from agentlib.recipes.problem import Problem, Reference

Draw = Callable[[int, Tensor | None], Tensor]
"""(how many, their labels or None) -> samples."""
POINTS, COMPARED, SHOWN = 10_000, 1_000, 100
"""Samples that modes are counted on, samples and examples in all other tests, and images in a picture."""


def parts_of(problem: Problem, what: str, seed: int, validation: float = 0.0) -> Splits:
    """The data of a problem in three parts.

    Raises:
        ValueError: no data, or an agent to go on from.
    """
    if problem.data is None:
        raise ValueError(f'{what} learns from examples: give data, such as data="digits"')
    if problem.agent is not None:
        raise ValueError(f"{what} makes no agent, and cannot go on from one; agent.backbone goes in as backbone=")
    return parts(problem.data, seed, validation)


def classes_of(data: Dataset, what: str) -> int:
    """How many labels there are, for a model that is told them.

    Raises:
        ValueError: the examples have none.
    """
    if data.y is None or not data.classes:
        kind = "no labels" if data.y is None else "targets that are no classes"
        raise ValueError(f"{what} with conditional=True needs a label for each example; the data has {kind}")
    return len(data.classes)


class Judge:
    """Judges samples of a model of some data.

    Args:
        key: the name of the data, if it has one.
        splits: the data; the model learned from its first part.
        draw: samples of the model as it is now.
        conditional: whether samples are asked for by label.
    """

    def __init__(self, key: str | None, splits: Splits, draw: Draw, conditional: bool) -> None:
        self.mixture = MIXTURES.get(key or "")
        self.splits, self.draw, self.conditional = splits, draw, conditional
        self.is_image = splits.train.x.dim() == 4
        self.compared = min(COMPARED, len(splits.test) // 2)

    def measures(self) -> dict[str, float]:
        """Modes where the truth is known, two-sample tests everywhere, and agreement with the labels asked for."""
        found: dict[str, float] = {}
        count = POINTS if self.mixture is not None else COMPARED
        label = self._labels(count)
        samples = self.draw(count, label).cpu()
        if self.mixture is not None:
            centers, deviation = self.mixture
            seen = modes(samples, centers, deviation)
            found |= {"test/modes": float(seen.covered()), "test/smallest_mode": seen.smallest}
            found |= {"test/within_3_deviations": seen.within, "test/spread": seen.spread}
        real, n = self.splits.test.x, self.compared
        found["test/nearest_neighbor_accuracy"] = nearest_neighbor_accuracy(real[:n], samples[:n])
        if importlib.util.find_spec("scipy") is not None:
            found["test/wasserstein"] = wasserstein(real[:n], samples[:n])
        if self.conditional and label is not None:
            found["test/label_agreement"] = agreement(self._nearest_label, samples[:COMPARED], label[:COMPARED])
            found["test/deviation_ratio"] = pixel_deviation(samples, label) / self._real_deviation()
        return found

    def references(self) -> dict[str, Reference]:
        """What real examples get."""
        real, n = self.splits.test.x, self.compared
        found = {"test/nearest_neighbor_accuracy": Reference(0.5, "samples that cannot be told from the data")}
        if importlib.util.find_spec("scipy") is not None:
            distance = wasserstein(real[:n], real[n : 2 * n])
            found["test/wasserstein"] = Reference(distance, "two sets of real examples")
        if self.mixture is not None:
            truth = modes(real, *self.mixture)
            found["test/modes"] = Reference(float(len(truth.shares)), "the data")
            found["test/smallest_mode"] = Reference(truth.smallest, "the data")
            found["test/within_3_deviations"] = Reference(truth.within, "the data; more is too narrow")
            found["test/spread"] = Reference(truth.spread, "the data")
        if self.conditional:
            train = self.splits.train
            assert train.y is not None
            real_agreement = agreement(self._nearest_label, train.x, train.y)
            found["test/label_agreement"] = Reference(real_agreement, "real examples, judged alike")
            found["test/deviation_ratio"] = Reference(1.0, "real examples")
        return found

    def pictures(self, folder: Path) -> list[Path]:
        """A grid of images, or the density of points in the plane; nothing for other data, or without matplotlib."""
        if importlib.util.find_spec("matplotlib") is None:
            return []
        if self.is_image:
            label = None
            if self.conditional:
                n_classes = len(self.splits.train.classes)
                label = torch.arange(SHOWN) * n_classes // SHOWN
            figure = sample_pictures.image_grid(self.draw(SHOWN, label).cpu())
        elif self.splits.train.x.shape[1:] == (2,):
            figure = sample_pictures.density(self.draw(POINTS, self._labels(POINTS)).cpu(), self.splits.test.x[:POINTS])
        else:
            return []
        return [sample_pictures.save(figure, folder / "samples.png")]

    def _labels(self, n: int) -> Tensor | None:
        """As many of each as the data has."""
        y = self.splits.test.y
        return y.repeat(-(-n // len(y)))[:n] if self.conditional and y is not None else None

    def _nearest_label(self, x: Tensor) -> Tensor:
        """The label of the nearest held-out example: a classifier that learned from what the model did not."""
        test = self.splits.test
        assert test.y is not None
        return test.y[torch.cdist(x.flatten(1).cpu(), test.x.flatten(1)).argmin(1)]

    def _real_deviation(self) -> float:
        test = self.splits.test
        assert test.y is not None
        return pixel_deviation(test.x, test.y)


def drawn(sample: Callable[..., Tensor], device: Callable[[], torch.device], seed: int, **options: Any) -> Draw:
    """Samples of a model, the same ones each time, by a generator of their own.

    Args:
        sample: the model's.
        device: where the model is now.
        seed: of the generator.
        options: given to `sample`.
    """

    def draw(n: int, label: Tensor | None) -> Tensor:
        generator = torch.Generator(device()).manual_seed(seed)
        asked = () if label is None else (label.to(device()),)
        return sample(n, *asked, generator=generator, **options)

    return draw
