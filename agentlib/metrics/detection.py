"""Telling the unusual from the usual: scores of single examples, and how well a score separates two sets.

    maximum softmax:  s(x) = 1 - max_k p_k(x)                        (Hendrycks & Gimpel 2017, arXiv:1610.02136)
    entropy:          s(x) = -sum_k p_k log p_k
    disagreement:     s(x) = H(mean of p) - mean of H(p)              over the members of an ensemble
    density:          s(x) = -log p(x)                                of a generative model

A larger score is more unusual, always: a detector with an AUROC below .5 is worse than chance, and is not turned round.
The same scores, on what a classifier got wrong against what it got right, tell how well it knows its errors. No such
score sees adversarial examples made against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from agentlib.core.modes import in_eval_mode
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.scores import checked


def max_softmax_score(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """1 - max_k p_k, `(B,)`, for logits `(B, K)`.

    Raises:
        ValueError: what `checked` raises, as for the scores below.
    """
    return 1.0 - (checked(logits) / temperature).softmax(-1).amax(-1)


def entropy_score(logits: Tensor) -> Tensor:
    """The entropy `(B,)` in nats of softmax of logits `(B, K)`, with 0 log 0 = 0."""
    return entropy_of_logits(checked(logits))


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Entropy `(...)` in nats of softmax of logits `(..., n)`; a logit of -inf adds nothing, nor does its gradient."""
    log_probability = logits.log_softmax(-1)
    finite = log_probability.clamp_min(torch.finfo(logits.dtype).min)
    return -(log_probability.exp() * finite).sum(-1)


def entropy_of_probabilities(probability: Tensor) -> Tensor:
    """Entropy `(...)` in nats of probabilities `(..., n)`, with 0 log 0 = 0."""
    return -(probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()).sum(-1)


def mutual_information(probability: Tensor) -> Tensor:
    """Mutual information `(...)` of action and member in nats, for probabilities `(K, ..., n)` of K members.

    The entropy of the average minus the average of the entropies: 0 where all agree, at most log min(K, n).
    """
    return entropy_of_probabilities(probability.mean(0)) - entropy_of_probabilities(probability).mean(0)


def disagreement_score(logits: Tensor) -> Tensor:
    """Mutual information `(B,)` of the class and the member of an ensemble, for logits `(B, members, K)`."""
    return mutual_information(checked(logits).softmax(-1).movedim(-2, 0))


def density_score(log_density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """-log p(x), `(B,)`, by any function that gives log densities or a bound on them."""
    with torch.no_grad():
        return -log_density(x)


def alarm(policy: nn.Module) -> Callable[[Any], NDArray[np.float64]]:
    """The score `(B,)` of observations by a policy itself: disagreement of an ensemble, else maximum softmax."""

    def score(observation: Any) -> NDArray[np.float64]:
        if hasattr(policy, "members"):
            with in_eval_mode(policy):
                scores = disagreement_score(policy(observation)[0])
        else:
            scores = max_softmax_score(logits_of(policy, observation))
        return scores.double().cpu().numpy()

    return score


class Detection(NamedTuple):
    """How well a score separates the unusual from the usual."""

    auroc: float
    """Chance that an unusual example scores higher than a usual one; ties count half."""
    aupr: float
    """Mean precision over the recall of unusual ones; a useless score has their share."""
    fpr95: float
    """Share of usual examples that raise an alarm when 95% of the unusual ones do."""
    share: float
    """Of unusual examples among all: what `aupr` is by chance."""

    def __str__(self) -> str:
        return f"AUROC {self.auroc:.3f}, AUPR {self.aupr:.3f} (chance {self.share:.3f}), FPR95 {self.fpr95:.3f}"


def detection(usual: ArrayLike, unusual: ArrayLike) -> Detection:
    """How well scores tell apart usual examples `(N,)` and unusual ones `(M,)`.

    Raises:
        ValueError: one of them is empty, or a score is NaN.
    """
    low, high = np.asarray(usual, np.float64).ravel(), np.asarray(unusual, np.float64).ravel()
    if not low.size or not high.size:
        raise ValueError(f"detection needs scores of usual and unusual examples, not {low.size} and {high.size}")
    if np.isnan(low).any() or np.isnan(high).any():
        raise ValueError("a score is NaN")
    scores = np.concatenate([low, high])
    truth = np.concatenate([np.zeros(low.size), np.ones(high.size)])
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # one threshold for each value, inf among them
    hits, alarms = np.cumsum(truth)[last], np.cumsum(1.0 - truth)[last]
    tpr, fpr = np.append(0.0, hits / high.size), np.append(0.0, alarms / low.size)
    precision = hits / (hits + alarms)
    return Detection(
        auroc=float(np.trapezoid(tpr, fpr)),
        aupr=float((np.diff(tpr) * precision).sum()),
        fpr95=float(fpr[np.argmax(tpr >= 0.95)]),
        share=high.size / scores.size,
    )
