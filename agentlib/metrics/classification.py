"""How well labels are predicted: accuracy, likelihood and calibration, each beside its floor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agentlib.core.recipe import Measure
from agentlib.metrics.calibration import reliability_of
from agentlib.metrics.targets import labels_for, numbers_for

NOISE_DRAWS = 20
"""Draws of labels from which the calibration error of a perfect model is estimated."""


def classification_measures(
    logits: Tensor, labels: Tensor, shares: Tensor, temperature: float, seed: int = 0
) -> list[Measure]:
    """Measures on test examples.

    Args:
        logits: `(N, K)`.
        labels: `(N,)` integers.
        shares: of the classes in the training part, `(K,)`.
        temperature: fitted to the validation part.
        seed: of the draws for the floor of the calibration error.
    """
    labels = labels_for(logits.shape[:1], labels, logits.shape[1])
    floor = float((labels == shares.argmax()).double().mean())
    guess = float(-shares.double().log()[labels].mean())
    scaled = reliability_of(logits, labels, temperature).ece
    noise = _noise_floor(logits / temperature, seed)
    return [
        Measure("test/accuracy", float((logits.argmax(1) == labels).double().mean()), floor, "the most frequent class"),
        Measure("test/loss", float(functional.cross_entropy(logits, labels)), guess, "the shares of the classes"),
        Measure("test/ece", reliability_of(logits, labels).ece),
        Measure("test/ece_after_scaling", scaled, noise, "expected of perfect calibration on as many examples"),
        Measure("test/temperature", temperature, 1.0, "a model whose confidence is its accuracy"),
    ]


def shares_of(labels: Tensor, n_classes: int) -> Tensor:
    """The share of each class `(K,)` among labels `(N,)`, float64."""
    labels = labels_for((len(labels),), labels, n_classes)
    return torch.bincount(labels, minlength=n_classes).double() / len(labels)


def _noise_floor(logits: Tensor, seed: int) -> float:
    """The mean ECE where labels are drawn from these very probabilities."""
    generator = torch.Generator(logits.device).manual_seed(seed)
    probabilities = logits.softmax(1)
    draws = [torch.multinomial(probabilities, 1, generator=generator)[:, 0] for _ in range(NOISE_DRAWS)]
    return float(np.mean([reliability_of(logits, labels).ece for labels in draws]))


def regression_measures(prediction: Tensor, target: Tensor, mean: Tensor) -> list[Measure]:
    """Measures on test examples: predictions and targets `(N, k)`, beside always the training mean `(k,)`."""
    target = numbers_for(prediction, target)
    error, constant = prediction - target, mean - target
    always = "always the training mean"
    rmse = float(error.square().mean().sqrt())
    explained = 1.0 - float(error.square().sum() / (target - target.mean(0)).square().sum())
    return [
        Measure("test/rmse", rmse, float(constant.square().mean().sqrt()), always),
        Measure("test/mae", float(error.abs().mean()), float(constant.abs().mean()), always),
        Measure("test/r2", explained),
    ]
