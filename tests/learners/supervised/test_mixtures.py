"""Losses of mixed labels, and AugMix's divergence, against formulas; a classifier with each of them."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

import agentlib
from agentlib.data import Dataset, Splits
from agentlib.engine import loop, run
from agentlib.learners import Classifier, ClassifierConfig
from agentlib.learners.supervised.classifier import RECIPE, cross_entropy
from agentlib.learners.supervised.mixtures import jensen_shannon, mixed, mixed_losses

OPTIONS = {
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0, "mixup": 0.2},
    "augmix": {"augment": "augmix", "consistency": 12.0},
    "policy": {"augment": "cifar10", "shift": 1, "cutout": 2},
    "pixmix": {"augment": "pixmix", "rotation": 5.0},
}


def test_the_loss_is_that_of_the_mixed_label():
    """Cross-entropy is linear in the label: s CE(y1) + (1 - s) CE(y2) = CE(s y1 + (1 - s) y2)."""
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 2])
    share = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0, 0.9])
    found = mixed_losses(lambda labels: cross_entropy(logits, labels), y, share)
    soft = share[:, None] * functional.one_hot(y, 4) + (1 - share[:, None]) * functional.one_hot(y.roll(1), 4)
    torch.testing.assert_close(found, functional.cross_entropy(logits, soft, reduction="none"))


def test_divergence():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]).double()
    mean = p.mean(0)
    by_hand = sum((p[i] * (p[i] / mean).log()).sum() for i in range(3)) / 3
    assert float(jensen_shannon(p.log()[:, None])) == pytest.approx(float(by_hand))
    assert float(jensen_shannon(p.log()[:1].expand(3, -1)[:, None])) == pytest.approx(0.0, abs=1e-12)
    apart = 50.0 * torch.eye(3)[:, None]  # each sure of another class
    assert float(jensen_shannon(apart)) == pytest.approx(math.log(3), abs=1e-6)


def tiny(options, seed=0):
    labels = torch.arange(64) % 2
    x = torch.rand(64, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.3
    x[labels == 1, :, 2:4] += 0.5
    data = Dataset(x, labels, ("plain", "bar"))
    config = ClassifierConfig(batch_size=16, net_arch=(16,), learning_rate=1e-2, **options)
    return RECIPE.tiny(Classifier, config, seed, data=Splits(data, data, data))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if place > 1 else ()) for place, name in enumerate(OPTIONS)]
)
def test_a_run_with_each(name, monkeypatch):
    """The same with torch's interpreter as without, to the last number, and it learns."""
    monkeypatch.setattr(loop, "AUTO_INTERPRET_UPDATES", 1)
    found = []
    ways: tuple[Any, ...] = ("eager", False)
    for way in ways:
        learner, source = tiny(OPTIONS[name])
        losses = [float(update.metrics["loss"]) for _, update in run(learner, source, 30, compile=way)]
        found.append(losses)
    assert found[0] == found[1]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_update_mixes_within_the_batch():
    learner, source = tiny({"mixup": 0.2})
    source.advance()
    batch = source.sample()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        x, share = mixed(batch.x, learner.config)
        expected = mixed_losses(lambda y: cross_entropy(learner.policy(x)[0], y), batch.y, share)
        torch.manual_seed(5)
        torch.testing.assert_close(learner.update(batch).per_sample, expected.detach())


def test_bad_choices():
    with pytest.raises(ValueError, match="consistency is between copies of an image that `augment` changes: give aug"):
        ClassifierConfig(consistency=12.0)
    points = Dataset(torch.rand(64, 3), torch.arange(64) % 2, ("a", "b"))
    with pytest.raises(ValueError, match=r"cutmix is for images \(B, C, H, W\), not for examples \(3,\): take mixup"):
        agentlib.train("classifier", data=points, cutmix=1.0, steps=5, progress=False)
    with pytest.raises(ValueError, match=r"images are a batch \(B, C, H, W\), not \(\d+, 3\)"):
        agentlib.train("classifier", data=points, augment="augmix", steps=5, progress=False)
