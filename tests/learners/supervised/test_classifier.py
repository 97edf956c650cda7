"""The classifier's loss and gradient against formulas, and what it learns against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from agentlib.backbones import MLP, adam
from agentlib.core import Cosine
from agentlib.data import Batches, Dataset, dataset
from agentlib.engine import run
from agentlib.learners import Classifier, ClassifierConfig
from agentlib.learners.supervised.classifier import balanced_weights, cross_entropy
from agentlib.policies import CategoricalPolicy


def logits_and_labels(n=40, classes=5, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (n,), generator=generator)


def learned(data, config, updates, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        policy = CategoricalPolicy(MLP(data.x[0].numel(), config.net_arch or ()), len(data.classes))
    learner = Classifier(policy, adam(config.learning_rate), config)
    for _ in run(learner, Batches(data, config.batch_size, seed=seed), updates, compile=False):
        pass
    return policy


def standardized(name):
    data = dataset(name)
    return Dataset((data.x - data.x.mean(0)) / data.x.std(0, correction=0), data.y, data.classes)


# The loss


def test_the_loss_and_its_gradient():
    logits, labels = logits_and_labels()
    losses = cross_entropy(logits, labels)
    shares = np.exp(logits.detach().numpy())
    shares /= shares.sum(1, keepdims=True)
    assert np.allclose(losses.detach().numpy(), -np.log(shares[np.arange(40), labels.numpy()]), atol=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    onehot = np.eye(5)[labels.numpy()]
    assert np.allclose(gradient.numpy(), shares - onehot, atol=1e-12)


def test_huge_logits():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    losses = cross_entropy(logits, torch.tensor([0, 0]))
    assert losses.tolist() == [0.0, 2e4]
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_at_the_start_all_classes_are_alike():
    assert float(cross_entropy(torch.zeros(1, 10), torch.tensor([3]))) == pytest.approx(math.log(10))


def test_label_smoothing():
    """The least loss with eps = .1 and 10 classes is .5003; -sum q log p by hand elsewhere."""
    q = torch.full((10,), 0.01)
    q[4] = 0.91
    assert float(cross_entropy(q.log()[None], torch.tensor([4]), 0.1)) == pytest.approx(0.5003, abs=1e-4)
    logits, labels = logits_and_labels()
    smooth = torch.full((40, 5), 0.04, dtype=torch.float64)
    smooth[range(40), labels] += 0.8
    expected = -(smooth * logits.log_softmax(1)).sum(1)
    assert torch.allclose(cross_entropy(logits, labels, 0.2), expected)


def test_two_classes_are_logistic_regression():
    logits, _ = logits_and_labels(classes=2)
    labels = torch.arange(40) % 2
    margin = (2.0 * labels - 1.0) * (logits[:, 1] - logits[:, 0])
    assert torch.allclose(cross_entropy(logits, labels), functional.softplus(-margin))
    # dL/df = sigmoid(f) - y
    f = (logits[:, 1] - logits[:, 0]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.softplus(-(2.0 * labels - 1.0) * f).sum(), f)
    assert torch.allclose(gradient, f.sigmoid() - labels)


def test_class_weights():
    logits, labels = logits_and_labels()
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    assert torch.allclose(cross_entropy(logits, labels, 0.0, weights), weights[labels] * cross_entropy(logits, labels))
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    assert balanced_weights(labels, 3) == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert balanced_weights(labels, 3) == pytest.approx(
        pytest.importorskip("sklearn.utils").compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    )


@pytest.mark.parametrize("weights", [(1.0, 2.0), "balanced"])
def test_class_weights_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="one number for each of the 3 classes"):
        Classifier(CategoricalPolicy(MLP(2, ()), 3), adam(), ClassifierConfig(class_weights=weights))


# What is learned


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learns_logistic_regression(weighted):
    """Breast cancer, C = 1. Softmax has two vectors where scikit-learn has one: W = (-w/2, w/2), so its l2 is twice."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    data = standardized("breast_cancer")
    n, c = len(data), 1.0
    weights = balanced_weights(data.targets, 2) if weighted else None
    theirs = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000,
                                             class_weight="balanced" if weighted else None)  # fmt: skip
    theirs.fit(data.x.numpy(), data.targets.numpy())
    config = ClassifierConfig(
        net_arch=(), batch_size=n, l2=2.0 / (2.0 * n * c), learning_rate=Cosine(0.05), class_weights=weights
    )
    head = learned(data, config, 1500).head
    mine = (head.weight[1] - head.weight[0]).detach().numpy()
    bias = float((head.bias[1] - head.bias[0]).detach())
    assert np.abs(mine - theirs.coef_[0]).max() < 1e-3
    assert bias == pytest.approx(theirs.intercept_[0], abs=1e-3)


@pytest.mark.slow
def test_equals_scikit_learn_with_ten_classes():
    linear_model = pytest.importorskip("sklearn.linear_model")
    data = dataset("digits")
    flat = Dataset(data.x.flatten(1), data.y, data.classes)
    n, c = len(flat), 0.1
    theirs = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
    theirs.fit(flat.x.numpy(), flat.targets.numpy())
    config = ClassifierConfig(net_arch=(), batch_size=n, l2=1.0 / (2.0 * n * c), learning_rate=Cosine(0.05))
    head = learned(flat, config, 1200).head
    assert np.abs(head.weight.detach().numpy() - theirs.coef_).max() < 3e-3


def test_l1_makes_weights_zero():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=generator)
    data = Dataset(x, (x[:, 0] - x[:, 1] > 0).long(), ("no", "yes"))
    sparse, dense = (
        learned(data, ClassifierConfig(net_arch=(), batch_size=400, l1=l1, learning_rate=Cosine(0.05)), 300).head.weight
        for l1 in (0.02, 0.0)
    )
    idle = [float(weight[:, 2:].detach().abs().max()) for weight in (sparse, dense)]
    assert idle[0] < 0.01 < idle[1]
    assert float(sparse[:, :2].detach().abs().min()) > 0.3


def test_weights_are_for_rare_classes():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(600) % 20 == 0).long()  # one in twenty
    x = torch.randn(600, 2, generator=generator) + 1.5 * labels[:, None]
    data = Dataset(x, labels, ("usual", "rare"))
    recall = {}
    for weights in (None, balanced_weights(labels, 2)):
        config = ClassifierConfig(net_arch=(), batch_size=600, class_weights=weights, learning_rate=Cosine(0.05))
        said = learned(data, config, 200)(x)[0].argmax(1)
        recall[weights] = float(said[labels == 1].double().mean())
    before, after = recall.values()
    assert after > before + 0.2


def test_what_it_reports():
    learner, source = Classifier.tiny()
    _, update = next(run(learner, source, 1, compile=False))
    assert set(update.metrics) == {"loss", "accuracy", "grad_norm"}
    assert update.per_sample is not None
    assert update.per_sample.shape == (32,)
