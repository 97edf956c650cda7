"""Whether a model is as often right as it says: calibration errors, reliability diagrams, temperature scaling.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|,    MCE = max_b |accuracy_b - confidence_b|
    p = softmax(z / T),    T = argmin of the negative log likelihood on validation data

Bins are (a, b], the first one holds 0 too. The model is a classifier or a policy whose right actions are known, such as
an expert's. Source: Guo et al. 2017, arXiv:1706.04599.

An ECE is biased upwards: a perfect forecaster has about .026 with 2,000 examples in 15 bins and .009 with 20,000. The
lecture notes leave out the absolute value of ECE and divide probabilities by T; logits are divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core.modes import in_eval_mode
from agentlib.metrics.scores import checked, logits_from
from agentlib.metrics.targets import labels_for

BINS = 15
WIDEST = 100.0
"""A temperature is sought between 1 / 100 and 100: where all is right, or wrong, the best one is 0, or infinite."""


class Reliability(NamedTuple):
    """How often a model was right, by how sure it was."""

    edges: NDArray[np.float64]
    """Of the bins, `(bins + 1,)`."""
    counts: NDArray[np.int64]
    """Examples in each bin, `(bins,)`."""
    confidence: NDArray[np.float64]
    """Mean confidence in each bin, nan where it is empty."""
    accuracy: NDArray[np.float64]
    """Share of right ones in each bin, nan where it is empty."""

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((gaps * self.counts).sum() / self.counts.sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error, over bins with examples; a bin with few of them may make it."""
        return float(np.nanmax(np.abs(self.accuracy - self.confidence)))


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Sorts examples into bins by their confidence.

    Args:
        confidence: probability that the model gives to what it predicts, `(N,)`.
        correct: whether that was right, `(N,)`.
        bins: of equal width.

    Raises:
        ValueError: no examples, sizes that differ, or confidences outside of 0 to 1.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise ValueError(f"confidence and correct are vectors of one length, not of shapes {sure.shape}, {right.shape}")
    if not (sure.min() >= 0.0 and sure.max() <= 1.0 + 1e-6):
        raise ValueError(f"a confidence is a probability, but they go from {sure.min():.4g} to {sure.max():.4g}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)  # (a, b]
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights=values, minlength=bins) / counts for values in (sure, right)]
    return Reliability(edges, counts.astype(np.int64), *means)


def reliability_of(
    logits: Tensor, labels: Tensor | NDArray[Any], temperature: float = 1.0, bins: int = BINS
) -> Reliability:
    """The reliability of softmax(logits / temperature), for logits `(N, K)` and right labels `(N,)`.

    Raises:
        ValueError: labels that are none of the K classes or do not fit, or logits that give no probabilities.
    """
    confidence, predicted = (checked(logits).double() / temperature).softmax(1).max(1)
    right = predicted == labels_for(predicted.shape, labels, logits.shape[1]).to(predicted.device)
    return reliability(confidence.cpu().numpy(), right.cpu().numpy(), bins)


def fit_temperature(logits: Tensor, labels: Tensor | NDArray[Any]) -> float:
    """The temperature with the smallest negative log likelihood; it changes no prediction.

    Fit it on validation data: on training data a model is surer of itself, and with more reason.

    Args:
        logits: `(N, K)`, or log probabilities; -inf for a class that is ruled out.
        labels: `(N,)` integers: true classes, or an expert's actions.

    Raises:
        ValueError: no examples, labels that are none of the K classes or are ruled out, or logits that give no
            probabilities.
    """
    if logits.dim() != 2 or not len(logits):
        raise ValueError(f"logits (N, K) of at least one example are needed, not {tuple(logits.shape)}")
    y = labels_for(logits.shape[:1], labels, logits.shape[1]).to(logits.device)
    z = checked(logits).detach().double()
    impossible = (z.gather(1, y[:, None])[:, 0] == -math.inf).nonzero()
    if len(impossible):
        row = int(impossible[0])
        raise ValueError(
            f"the model rules out the label of example {row}, {int(y[row])}: no temperature makes it possible"
        )
    z = torch.where(z == -math.inf, z.amax(1, keepdim=True) - 1e6, z)  # e^-10000 is 0, and its slope no NaN
    with torch.inference_mode(False), torch.enable_grad():
        z, y = z.clone(), y.clone()
        log_temperature = torch.zeros((), dtype=torch.float64, device=z.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            limit = math.log(WIDEST)
            loss = functional.cross_entropy(z * (-log_temperature.clamp(-limit, limit)).exp(), y)
            (log_temperature.grad,) = torch.autograd.grad(loss, log_temperature)
            return loss.detach()

        optimizer.step(closure)
    return min(max(math.exp(float(log_temperature.detach())), 1.0 / WIDEST), WIDEST)


def logits_of(policy: nn.Module, observation: Any) -> Tensor:
    """Logits `(B, K)` of a classifier or policy in eval mode, as `logits_from` has them; raises what `checked` does."""
    with in_eval_mode(policy):
        return checked(logits_from(policy, policy(observation)))


def calibrated_confidence(policy: nn.Module, temperature: float = 1.0) -> Callable[[Any], Tensor]:
    """How sure a policy is of its best action, as a function from observations (a batch of tensors) to `(B,)`.

    With the temperature of `fit_temperature`, a confidence of 0.8 is meant to be right in 8 of 10 cases. A learner that
    asks an expert where its confidence is low can use it.
    """

    def confidence(observation: Any) -> Tensor:
        return (logits_of(policy, observation) / temperature).softmax(-1).amax(-1)

    return confidence
