"""How well new classes are told apart from few examples of each.

    accuracy = share of an episode's queries whose nearest prototype, the mean of its class's examples, is the right one

It goes over many episodes, whose mean has an interval. The same with raw pixels is the floor: `encoder=None`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agentlib.data import Dataset
from agentlib.data.episodes import Episodes
from agentlib.evaluation.probe import features_of
from agentlib.learners.meta.prototypical import distance_logits, prototypes

Scores = NDArray[np.float64]


def episode_accuracies(
    encoder: nn.Module | None,
    data: Dataset,
    ways: int,
    shots: int,
    *,
    queries: int = 5,
    episodes: int = 600,
    seed: int = 0,
) -> Scores:
    """Accuracies `(episodes,)` of prototypes in the features of an encoder.

    Args:
        encoder: from examples to features; None for the examples themselves.
        data: labelled examples of classes that it did not learn from.
        ways: classes per episode.
        shots: examples of each class to learn from.
        queries: examples of each class to be asked for.
        episodes: how many; 600 give the mean within about half a point.
        seed: two encoders with one seed meet the same episodes.

    Raises:
        ValueError: more ways or examples than the data has.
    """
    features = torch.from_numpy(features_of(encoder or nn.Flatten(), data.x))
    source = Episodes(Dataset(features, data.y, data.classes), ways, shots, queries, episodes, seed)
    source.advance()
    batch = source.sample()
    centers = prototypes(batch.support.x, batch.support.y, ways)
    right = distance_logits(batch.query.x, centers).argmax(-1) == batch.query.y  # (episodes, queries)
    return np.asarray(right.double().mean(1).numpy(), np.float64)
