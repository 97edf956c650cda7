"""How good frozen features are: classifiers on few labels.

    accuracy = share of test examples for which argmax_k (w_k f(x) + b_k) is right, w and b fitted to few labels

The classifier is scikit-learn's logistic regression with C = 1, on features that are not standardized: standardizing
cost 2 to 4 points on small digits. Labels are few, since with all labels of a small data set any features do, raw
pixels among them.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentlib.core.progress import watched

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


def few_labels(labels: Labels, per_class: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Random rows of `per_class` examples of each class, `(classes * per_class,)`, from labels `(N,)`.

    Raises:
        ValueError: a class has fewer.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    smallest = min(map(len, members))
    if smallest < per_class:
        raise ValueError(f"{per_class} labels per class cannot be drawn: a class has {smallest} examples")
    return np.concatenate([generator.permutation(rows)[:per_class] for rows in members])


def linear_probe(features: Features, labels: Labels, test_features: Features, test_labels: Labels) -> Scores:
    """Test accuracies `(draws,)` of logistic regression with C = 1.

    Args:
        features: `(draws, n, d)`, of the labelled examples of each draw.
        labels: `(draws, n)`.
        test_features: `(N, d)`.
        test_labels: `(N,)`.

    Raises:
        ImportError: scikit-learn is absent; the message names the extra.
    """
    return _accuracies(_sklearn("linear_model").LogisticRegression(C=1.0, max_iter=2_000), features, labels,
                       test_features, test_labels)  # fmt: skip


def neighbour_probe(features: Features, labels: Labels, test_features: Features, test_labels: Labels) -> Scores:
    """Test accuracies `(draws,)` of the label of the nearest neighbour, by Euclidean distance; see `linear_probe`."""
    return _accuracies(_sklearn("neighbors").KNeighborsClassifier(n_neighbors=1), features, labels,
                       test_features, test_labels)  # fmt: skip


def _accuracies(model: Any, features: Features, labels: Labels, test_features: Features, test_labels: Labels) -> Scores:
    draws = watched(list(zip(features, labels, strict=True)), "probing")
    return np.array([model.fit(*draw).score(test_features, test_labels) for draw in draws])


def _sklearn(module: str) -> Any:
    before = random.getstate()
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise ImportError("a probe needs scikit-learn: pip install 'agentlib-rl[vision]'") from None
    finally:
        random.setstate(before)  # its import draws from the host's generator
