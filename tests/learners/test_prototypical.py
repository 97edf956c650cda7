"""Prototypes: means of classes, the linear classifier that they are, and what is learned."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.backbones import MLP, adam
from agentlib.backbones.choice import space_of
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset
from agentlib.data.episodes import Episodes, Pairs
from agentlib.engine import run
from agentlib.families.tasks import TaskFacts
from agentlib.learners.meta.prototypical import (
    MatchingConfig,
    Prototypical,
    PrototypicalConfig,
    PrototypicalNetwork,
    distance_logits,
    matching_logits,
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


@pytest.mark.parametrize(
    ("labels", "ways", "message"),
    [
        ([0, 2, 2], 3, r"task 0 has the labels \[0, 2\], and the classes are 0 to 2: class 1 has no example"),
        ([5, 7, 5], 2, r"has the labels \[5, 7\], and the classes are 0 to 1: class 0 has no example"),
        ([0, 1, 2], 2, r"the classes are 0 to 1: label 2 is none of the classes"),
        ([0, 1, -1], 2, r"label -1 is none of the classes"),
    ],
)
def test_labels_that_are_not_those_of_the_classes(labels, ways, message):
    """The mean of no example is NaN, and argmax takes NaN for the largest of all."""
    network = PrototypicalNetwork(nn.Identity())
    support, x = Pairs(random(1, 3, 5), torch.tensor([labels])), random(1, 4, 5)
    with pytest.raises(ValueError, match=message):
        network(support, x, ways)


def test_tasks_of_another_number_of_classes_are_refused_before_the_first_update():
    """Otherwise the prototypes of those that never come would be NaN."""
    facts = TaskFacts(3, space_of(random(4, 5)))
    with pytest.raises(ValueError, match=r"tasks have 3 classes, and config\.ways is 20"):
        Prototypical.build(MLP(5), PrototypicalConfig(), facts)


def test_tasks_to_classify_have_an_example_of_each_class():
    learner, source = Prototypical.tiny()
    source.advance()
    tasks = source.sample()
    bad = tasks.support._replace(y=torch.where(tasks.support.y == 1, 0, tasks.support.y))
    with pytest.raises(ValueError, match="class 1 has no example"):
        learner.classify(tasks._replace(support=bad))


def test_labels_of_other_shapes_and_dtypes():
    network, x = PrototypicalNetwork(nn.Identity()), random(1, 4, 5)
    support = Pairs(random(1, 3, 5), torch.tensor([[1, 0, 1]]))
    expected = network(support, x, 2)
    others: Any = (support.y.int(), support.y[..., None], support.y.numpy().astype(np.uint8))
    for y in others:
        torch.testing.assert_close(network(Pairs(support.x, y), x, 2), expected)


# Matching networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.001])
def test_matching_is_attention_to_single_examples(temperature):
    """The formula term by term; probabilities sum to one, and none is lost where the attention is sharp."""
    features, support, labels = random(2, 4, 5), random(2, 6, 5, seed=1), torch.tensor([[0, 1, 2, 0, 1, 1]] * 2)
    found = matching_logits(features, support, labels, 3, temperature)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert bool(found.isfinite().all())
    for task in range(2):
        for i in range(4):
            cosines = [float(functional.cosine_similarity(features[task, i], one, dim=0)) for one in support[task]]
            powers = np.exp((np.array(cosines) - max(cosines)) / temperature)
            expected = [powers[labels[task].numpy() == label].sum() / powers.sum() for label in range(3)]
            np.testing.assert_allclose(found[task, i].exp().numpy(), expected, atol=1e-12)


def test_matching_with_one_example_of_a_class_is_a_softmax_of_cosines():
    features, support = random(6, 5), random(3, 5, seed=1)
    expected = (functional.normalize(features) @ functional.normalize(support).T / 0.5).softmax(1)
    torch.testing.assert_close(matching_logits(features, support, torch.arange(3), 3, 0.5).exp(), expected)


def test_the_networks_matching_does_not_see_lengths_and_its_null_value_is_chance():
    support = Pairs(random(1, 4, 5), torch.tensor([[0, 1, 0, 1]]))
    network, x = PrototypicalNetwork(nn.Identity(), temperature=0.2), random(1, 3, 5, seed=2)
    torch.testing.assert_close(network(support, 7.0 * x, 2), network(support, x, 2))
    same = network(support._replace(x=torch.ones(1, 4, 5, dtype=torch.float64)), x, 2)
    torch.testing.assert_close(same, torch.full_like(same, -np.log(2)))


def test_a_matching_network_learns_directions():
    """Classes are eight angles; the length says nothing."""
    _, source = Prototypical.tiny()
    config = MatchingConfig(ways=4, batch_size=2)
    with fresh_weights(0):
        learner = Prototypical(PrototypicalNetwork(MLP(2, hidden=(16, 16)), config.temperature), adam(3e-3), config)
    metrics = [update.metrics for _, update in run(learner, source, 200, compile=False)]
    assert float(metrics[-1]["accuracy"]) > 0.9
    assert float(metrics[-1]["loss"]) < 0.5 * float(metrics[0]["loss"])
