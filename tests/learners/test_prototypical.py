"""Prototypes: means of classes, the linear classifier that they are, and what is learned."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset
from agentlib.data.episodes import Episodes
from agentlib.engine import run
from agentlib.learners.meta.prototypical import (
    Prototypical,
    PrototypicalConfig,
    PrototypicalNetwork,
    distance_logits,
    prototypes,
)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_the_means_of_classes():
    features, labels = (
        random(3, 8, 5),
        torch.tensor([[0, 1, 2, 0, 1, 2, 2, 2], [2, 1, 0, 0, 0, 0, 0, 0], [0, 1, 2, 2, 1, 0, 1, 1]]),
    )
    found = prototypes(features, labels, 3)
    for task in range(3):
        for label in range(3):
            torch.testing.assert_close(found[task, label], features[task, labels[task] == label].mean(0))


def test_logits_are_minus_squared_distances():
    features, centers = random(2, 6, 5), random(2, 3, 5, seed=1)
    torch.testing.assert_close(distance_logits(features, centers), -torch.cdist(features, centers).square())


def test_equals_the_linear_classifier():
    """Weights 2c and biases -|c|^2 give the same probabilities: |f|^2 is common to all classes."""
    features, centers = random(6, 5), random(3, 5, seed=1)
    linear = functional.linear(features, 2.0 * centers, -centers.square().sum(1))
    torch.testing.assert_close(distance_logits(features, centers).softmax(1), linear.softmax(1))


def test_loss_is_the_cross_entropy_of_the_formula():
    learner, source = Prototypical.tiny()
    source.advance()
    batch = source.sample()
    with torch.no_grad():
        expected = []
        for task in range(learner.config.batch_size):
            support, query = (
                learner.network.backbone(batch.support.x[task]),
                learner.network.backbone(batch.query.x[task]),
            )
            centers = torch.stack([support[batch.support.y[task] == k].mean(0) for k in range(learner.config.ways)])
            p = (-(query[:, None] - centers).square().sum(-1)).softmax(1)
            expected.append(-p[torch.arange(len(p)), batch.query.y[task]].log().mean())
    update = learner.update(batch)
    assert update.per_sample is not None
    torch.testing.assert_close(update.per_sample, torch.stack(expected))
    torch.testing.assert_close(update.metrics["loss"], torch.stack(expected).mean())


def test_no_information_gives_chance():
    """All features equal: ln N."""
    learner, source = Prototypical.tiny()
    for parameter in learner.network.parameters():
        nn.init.zeros_(parameter)
    source.advance()
    update = learner.update(source.sample())
    assert float(update.metrics["loss"]) == pytest.approx(torch.tensor(4.0).log().item(), abs=1e-6)


def test_learns_which_directions_count():
    """Classes differ in one number; the other three are noise, ten times as strong."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(12).repeat_interleave(20)
    x = torch.cat([y[:, None].float(), 10.0 * torch.randn(240, 3, generator=generator)], 1)
    data = Dataset(x, y, tuple("ABCDEFGHIJKL"))
    config = PrototypicalConfig(ways=5, shots=3, queries=5, batch_size=4)
    with fresh_weights(0):
        network = PrototypicalNetwork(MLP(4, hidden=(32, 32)))
    learner = Prototypical(network, adam(3e-3), config)
    metrics = [update.metrics for _, update in run(learner, Episodes(data, 5, 3, 5, 4), 250, compile=False)]
    first, last = (sum(float(m["accuracy"]) for m in part) / len(part) for part in (metrics[:10], metrics[-30:]))
    assert first < 0.45
    assert last > 0.75
