"""How good frozen features are: a linear classifier on few labels, beside what can be had without them.

    accuracy = share of test images for which argmax_k (w_k f(x) + b_k) is right, w and b fitted on few labelled images

The classifier is scikit-learn's logistic regression with C = 1, on features that are not standardised (standardising
was measured to cost 2 to 4 points here). With all labels of a small data set any features do, raw pixels among them, so
that few labels are given, ten of each class; and the test images are shown as they are and moved by one pixel each way,
which the labelled ones are not (`nudged`; split by image, so that no copy of a labelled image is tested).

Who has the labels may move these images instead of learning features. That floor is measured too, and on small digits
nearest neighbours with moved labels are ahead of most features: a probe says how good features are, no more.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.data import Dataset
from agentlib.data.augmentation import shift

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Scores = NDArray[np.float64]

CHUNK = 1024
"""Images that are encoded at once."""


def few_labels(labels: Labels, per_class: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of `per_class` examples of each class, `(classes * per_class,)`, from labels `(N,)`.

    Raises:
        ValueError: a class has fewer.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    smallest = min(map(len, members))
    if smallest < per_class:
        raise ValueError(f"{per_class} labels per class cannot be drawn: a class has {smallest} examples")
    return np.concatenate([generator.permutation(rows)[:per_class] for rows in members])


def nudged(data: Dataset) -> Dataset:
    """Each image `(C, H, W)` as it is, and moved by one pixel up, down, left and right over zeros: five in all."""
    still = torch.zeros(len(data), dtype=torch.int64)
    moves = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    images = torch.cat([shift(data.x, still + down, still + right, "zero") for down, right in moves])
    return Dataset(images, None if data.y is None else data.y.repeat(len(moves)), data.classes)


def features_of(encoder: nn.Module, x: Tensor) -> Features:
    """Features `(N, d)` of examples, in eval mode and without gradients; the encoder's mode is put back."""
    device = next((parameter.device for parameter in encoder.parameters()), x.device)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            parts = [encoder(part.to(device)).flatten(1).float().cpu() for part in x.split(CHUNK)]
    finally:
        encoder.train(was_training)
    return torch.cat(parts).numpy()


def linear_accuracy(features: Features, labels: Labels, test_features: Features, test_labels: Labels) -> float:
    """Accuracy of a logistic regression with C = 1.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    model = _sklearn("linear_model").LogisticRegression(C=1.0, max_iter=2_000)
    return float(model.fit(features, labels).score(test_features, test_labels))


def neighbour_accuracy(features: Features, labels: Labels, test_features: Features, test_labels: Labels) -> float:
    """Accuracy of the nearest neighbour's label, by Euclid's distance.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    model = _sklearn("neighbors").KNeighborsClassifier(n_neighbors=1)
    return float(model.fit(features, labels).score(test_features, test_labels))


def linear_probe(
    encoder: nn.Module, train: Dataset, test: Dataset, *, per_class: int = 10, draws: int = 10, seed: int = 0
) -> Scores:
    """Accuracies `(draws,)` of a linear classifier on frozen features, each with other labelled examples.

    Args:
        encoder: from examples to features `(B, ...)`.
        train: where the labelled examples are drawn from.
        test: on what the classifier is scored; `nudged(test)` for the protocol above.
        per_class: labelled examples of each class.
        draws: how often they are drawn.
        seed: of the draws; two encoders with one seed get the same labels.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
        ValueError: data without labels, or too few of a class.
    """
    labels, test_labels = _labels(train), _labels(test)
    features, test_features = features_of(encoder, train.x), features_of(encoder, test.x)
    return np.array(
        [
            linear_accuracy(features[rows], labels[rows], test_features, test_labels)
            for rows in _draws(labels, per_class, draws, seed)
        ]
    )


def floors(train: Dataset, test: Dataset, *, per_class: int = 10, draws: int = 10, seed: int = 0) -> dict[str, Scores]:
    """What the same labels give without learned features, as `linear_probe` scores it: accuracies `(draws,)` by name.

    "pixels" and "pixels_1nn" are the linear classifier and the nearest neighbour on raw pixels; "nudged_labels" and
    "nudged_labels_1nn" the same, where each labelled image was moved as the test images are.
    """
    labels, test_labels = _labels(train), _labels(test)
    flat = nn.Flatten()
    test_pixels = features_of(flat, test.x)
    found: dict[str, list[float]] = {}
    for rows in _draws(labels, per_class, draws, seed):
        few = train.take(rows)
        for name, labelled in (("pixels", few), ("nudged_labels", nudged(few))):
            pixels = features_of(flat, labelled.x)
            scores = (pixels, _labels(labelled), test_pixels, test_labels)
            found.setdefault(name, []).append(linear_accuracy(*scores))
            found.setdefault(f"{name}_1nn", []).append(neighbour_accuracy(*scores))
    return {name: np.array(scores) for name, scores in found.items()}


def _sklearn(module: str) -> Any:
    before = random.getstate()
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise ImportError("a probe needs scikit-learn: pip install 'agentlib[vision]'") from None
    finally:
        random.setstate(before)  # its import draws from the host's generator


def _labels(data: Dataset) -> Labels:
    if data.y is None or data.y.is_floating_point():
        raise ValueError("a probe needs labels of classes")
    return data.y.numpy()


def _draws(labels: Labels, per_class: int, draws: int, seed: int) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng([seed, 5])
    return [few_labels(labels, per_class, generator) for _ in range(draws)]
