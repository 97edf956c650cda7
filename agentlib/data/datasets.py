"""Data sets: examples as tensors, split once into train, validation and test."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.numbers import whole
from agentlib.data.mapped import first_that_is_not_finite, gathered
from agentlib.metrics.targets import labels_for


def check_numbers(name: str, is_complex: bool, axes: int) -> None:
    """Raises ValueError for what is no array of N examples."""
    if is_complex or axes == 0:
        kind = "complex numbers" if is_complex else "a single value"
        raise ValueError(f"{name} holds {kind}: give an array (N, ...) of real numbers, one row for each example")


@dataclass(frozen=True, eq=False)
class Dataset:
    """N examples.

    Raises:
        ValueError: x and y differ in length, a label is none of the classes, or a number is NaN; it says where.
    """

    x: Tensor
    """`(N, ...)`; images are `(N, C, H, W)`, floating-point numbers between 0 and 1."""
    y: Tensor | None = None
    """`(N,)` labels from 0, kept as int64, or floating-point targets `(N,)` or `(N, k)`; None for unlabelled data."""
    classes: tuple[str, ...] = ()
    """Names of the labels; empty for targets of a regression and for unlabelled data."""

    def __post_init__(self) -> None:
        if not isinstance(self.x, Tensor) or not isinstance(self.y, Tensor | None):
            raise TypeError("a Dataset holds tensors: agentlib.data.from_arrays(x, y) makes one of arrays")
        for name, tensor in (("x", self.x), ("y", self.y)):
            if tensor is not None:
                check_numbers(name, tensor.is_complex(), tensor.dim())
        row = first_that_is_not_finite(self.x)
        if row is not None:
            raise ValueError(f"example {row} holds NaN or infinite numbers: mend or leave it out")
        if self.y is None:
            return
        if len(self.y) != len(self.x):
            raise ValueError(f"there are {len(self.x)} examples and {len(self.y)} labels")
        row = first_that_is_not_finite(self.y)
        if row is not None:
            raise ValueError(f"the target of example {row} is NaN or infinite: mend it, or leave the example out")
        if self.classes:
            object.__setattr__(self, "y", labels_for(self.x.shape[:1], self.y, len(self.classes), "y"))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def targets(self) -> Tensor:
        """`y`.

        Raises:
            ValueError: the examples have neither labels nor targets.
        """
        if self.y is None:
            raise ValueError("these examples have no labels, and without them there is nothing to predict")
        return self.y

    def with_classes(self) -> Dataset:
        """The same examples with classes; whole numbers as targets are taken for labels.

        Raises:
            ValueError: the targets are no labels, or there are none.
        """
        if self.classes:
            return self
        y = self.targets
        if y.dim() != 1:
            raise ValueError(f"targets of shape {tuple(y.shape)} are no labels: of one-hot rows take y.argmax(1)")
        if y.is_floating_point() and not bool((y == y.round()).all()):
            raise ValueError("the targets are no labels but numbers with fractions: a regressor learns such")
        values, labels = y.long().unique(return_inverse=True)
        return Dataset(self.x, labels, tuple(str(int(value)) for value in values))

    def with_numbers(self) -> Dataset:
        """The same examples with numbers as targets; classes that are named by numbers become those.

        Raises:
            ValueError: the labels are no numbers, or there are none.
        """
        if not self.classes:
            return Dataset(self.x, self.targets.float())
        try:
            numbers = torch.from_numpy(np.array([float(name) for name in self.classes], np.float32))
        except ValueError:
            raise ValueError(
                f"a regressor predicts numbers, not the classes {', '.join(self.classes)}: a classifier learns such"
            ) from None
        return Dataset(self.x, numbers[self.targets])

    def take(self, rows: Tensor | NDArray[np.int64]) -> Dataset:
        """The examples in these rows; many large ones are written to a file, as `agentlib.data.mapped` says."""
        index = torch.as_tensor(rows)
        return Dataset(gathered(self.x, index), None if self.y is None else self.y[index], self.classes)

    def sampled(self, most: int) -> Dataset:
        """All examples, or `most` random ones in their order, the same at each call."""
        if len(self) <= most:
            return self
        return self.take(some_of(len(self), most))


def some_of(count: int, most: int) -> NDArray[np.int64]:
    """`most` random rows of `count` in their order, the same at each call."""
    return np.sort(np.random.default_rng([count, 3]).permutation(count)[:most])


class Splits(NamedTuple):
    """One data set in three parts: learn from the first, choose by the second, report the third."""

    train: Dataset
    validation: Dataset
    test: Dataset


def split(data: Dataset, seed: int = 0, validation: float = 0.15, test: float = 0.3) -> Splits:
    """Three random parts, stratified by label where there are labels; the same seed gives the same parts.

    Args:
        data: all examples.
        seed: of the permutation.
        validation: share of the examples to choose by.
        test: share of the examples to report on.

    Raises:
        ValueError: a class has too few examples to be in each part, or none at all.
    """
    generator = np.random.default_rng([whole("seed", seed), 2])
    labels = data.y.numpy() if data.y is not None and data.classes else np.zeros(len(data), np.int64)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in range(max(len(data.classes), 1)):
        rows = generator.permutation(np.flatnonzero(labels == label))
        n_test, n_validation = round(test * len(rows)), round(validation * len(rows))
        if len(rows) <= n_test + n_validation or (test > 0 and n_test == 0) or (validation > 0 and n_validation == 0):
            raise ValueError(
                f"{f'class {data.classes[label]!r}' if data.classes else 'the data set'} has {len(rows)} examples, too "
                "few for a training, a validation and a test part"
            )
        parts[2].extend(rows[:n_test])
        parts[1].extend(rows[n_test : n_test + n_validation])
        parts[0].extend(rows[n_test + n_validation :])
    return Splits(*(data.take(generator.permutation(part).astype(np.int64)) for part in parts))


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits: `(N, 1, 8, 8)` between 0 and 1, ten classes.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    bunch = _sklearn("digits")
    images = torch.from_numpy(bunch.images / 16.0).float()[:, None]  # (N, 1, 8, 8)
    return Dataset(images, torch.from_numpy(bunch.target).long(), tuple(map(str, range(10))))


def breast_cancer() -> Dataset:
    """The Wisconsin breast cancer data: 569 examples of 30 numbers, two classes."""
    bunch = _sklearn("breast_cancer")
    return Dataset(
        torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).long(), tuple(map(str, bunch.target_names))
    )


def diabetes() -> Dataset:
    """Diabetes progression: 442 examples of 10 numbers, one target `(N,)`."""
    bunch = _sklearn("diabetes")
    return Dataset(torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target).float())


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
}
"""Data sets by name; `agentlib list data` prints the first line of each docstring."""


def _sklearn(name: str) -> Any:
    before = random.getstate()
    try:
        from sklearn import datasets
    except ImportError:
        raise ImportError(f"the data set {name} comes with scikit-learn: pip install 'agentlib-rl[vision]'") from None
    finally:
        random.setstate(before)  # its import draws from the host's generator
    return getattr(datasets, f"load_{name}")()
