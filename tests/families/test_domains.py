"""Runs of each method, one contract over all, and a product test: what each is for."""

from typing import Any

import pytest
import torch

import agentlib
from agentlib.catalog import recipe_of
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.data.domains import Domains
from agentlib.learners import DomainsConfig
from agentlib.learners.domains.adaptation import adapt_statistics, ttt
from agentlib.learners.self_supervised.rotation import quarter_turns

METHODS = ("erm", "importance", "dann", "coral", "mmd", "irm", "group_dro", "mixup", "arm")


def clouds(n=120, move=0.0, seed=0, spurious=None):
    """Two clouds of points in the plane; with `spurious`, the second number says the label with this probability."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=generator)
    x[:, 0] += 2.5 * y + move
    if spurious is not None:
        agrees = torch.rand(n, generator=generator) < spurious
        x[:, 1] = 0.1 * x[:, 1] + 3.0 * torch.where(agrees, y, 1 - y)
    return Dataset(x, y, ("left", "right"))


def three():
    return Domains({"a": clouds(seed=1), "b": clouds(move=0.5, seed=2), "far": clouds(move=1.5, seed=3)}, ("far",))


@pytest.mark.parametrize(
    "method", [pytest.param(one, marks=() if one in ("coral", "group_dro") else pytest.mark.slow) for one in METHODS]
)
def test_each_method_learns(method):
    sizes: Any = {"net_arch": (16,), "batch_size": 32, "learning_rate": 1e-2, "progress": False}
    result: Any = agentlib.train("domains", data=three(), method=method, steps=150, seed=0, **sizes)
    measures = result.measures
    assert list(measures) == ["validation/a", "validation/b", "validation/worst_group", "test/far", "test/worst_group"]
    assert measures["validation/a"] > 0.7
    assert measures["test/far"] > 0.55
    assert result.agent.about["classes"] == ["left", "right"]


def groups(data, name):
    """Apart, the examples whose second number says the label, and the others."""
    agrees = (data.x[:, 1] > 1.5) == (data.y == 1)
    return {f"{name} usual": data.take(agrees.nonzero()[:, 0]), f"{name} odd": data.take((~agrees).nonzero()[:, 0])}


@pytest.mark.slow
def test_the_worst_group():
    """A number that says the label in 95%: DRO and resampling are better where it does not."""
    parts = groups(clouds(1_000, seed=1, spurious=0.95), "train") | groups(clouds(1_000, seed=2, spurious=0.5), "test")
    data = Domains(parts, ("test usual", "test odd"))
    sizes: Any = {"net_arch": (), "batch_size": 128, "learning_rate": 1e-2, "progress": False, "steps": 400}
    options: dict[str, Any] = {
        "erm": {"balance": "examples"},
        "resampling": {"balance": "groups"},
        "dro": {"method": "group_dro", "step_size": 0.1, "per_class": True},
    }
    worst = {}
    for name, one in options.items():
        result: Any = agentlib.train("domains", data=data, seed=0, **one, **sizes)
        worst[name] = result.measures["test/worst_group"]
    assert worst["erm"] < 0.5
    assert worst["resampling"] > worst["erm"] + 0.2, worst
    assert worst["dro"] > worst["erm"] + 0.2, worst


def test_weights_are_of_the_data_and_not_of_the_balance_of_batches():
    """A small source stands as often in batches as a large one: weighted by both, each batch has a mean of 1."""
    data = Domains({"a": clouds(600, seed=1), "b": clouds(60, 0.5, seed=2), "far": clouds(move=1.0, seed=3)}, ("far",))
    config = DomainsConfig(method="importance", batch_size=30, net_arch=(8,))
    job: Any = recipe_of("domains").job(Problem(config=config, data=data, steps=5))
    ratio, domain = job.learner.ratio, job.source.domain
    large, small = (float(ratio[domain == number].mean()) for number in (0, 1))
    assert (large + small) / 2 == pytest.approx(1.0, abs=1e-4)
    assert large > 3 * small  # it has ten times as many examples, and the ratios differ by less


@pytest.mark.slow
def test_contexts_are_of_the_domain_that_is_judged():
    """The label is the sign of a number less its domain's mean: of one example alone it cannot be told."""
    parts = {}
    for index, move in enumerate((-4.0, -2.0, 0.0, 2.0, 4.0, 1.0)):
        x = torch.randn(300, 1, generator=torch.Generator().manual_seed(index))
        parts[str(move)] = Dataset(x + move, (x[:, 0] > 0).long(), ("low", "high"))
    data, sizes = Domains(parts, ("1.0",)), {"net_arch": (32,), "batch_size": 160, "learning_rate": 1e-2, "steps": 400}
    found: dict[str, Any] = {}
    for method in ("erm", "arm"):
        options: Any = {"method": method, **sizes}
        found[method] = agentlib.train("domains", data=data, seed=0, progress=False, **options)
    assert found["erm"].measures["test/1.0"] < 0.8
    assert found["arm"].measures["test/1.0"] > 0.9
    model, part = found["arm"].model, parts["1.0"]  # a user adapts by what is met
    adapted = adapt_statistics(model, part.x)
    assert float((adapted(part.x)[0].argmax(1) == part.y).double().mean()) > 0.9
    assert torch.equal(adapted(part.x[:1])[0], adapted(part.x[:1])[0])
    torch.testing.assert_close(adapted(part.x[:1])[0], adapted(part.x)[0][:1])


def corners(n=160, noise=0.2, seed=0):
    """Two shapes in one corner: a dot and a bar."""
    y = torch.arange(n) % 2
    x = noise * torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    x[:, 0, 0, 0] += 1.0
    x[:, 0, 0, 1:4] += 1.0 * y[:, None]
    return Dataset(x, y, ("dot", "bar"))


@pytest.mark.slow
def test_turns_are_learned_beside_classes():
    data = Domains({"clear": corners(), "dim": Dataset(0.4 * corners(seed=1).x, corners().y, ("dot", "bar"))}, ("dim",))
    sizes: Any = {"net_arch": (32,), "batch_size": 32, "learning_rate": 5e-3, "progress": False, "steps": 100}
    result: Any = agentlib.train("domains", data=data, method="ttt", backbone="mlp", seed=0, **sizes)
    assert result.measures["validation/clear"] == 1.0
    model, (images, turn) = result.model, quarter_turns(data.parts["dim"].x)
    guesses = ttt(model, data.parts["dim"].x, epochs=2).turns(model.backbone(images)).argmax(1)
    assert float((guesses == turn).double().mean()) > 0.9


def test_few_labels_of_the_target_are_one_more_source():
    config = DomainsConfig(target_labels=4, batch_size=30, net_arch=(8,))
    source: Any = recipe_of("domains").job(Problem(config=config, data=three(), steps=5)).source
    assert torch.bincount(source.domain).tolist() == [96, 96, 8]


def test_bad_input():
    one = Domains({"a": clouds()})
    for method in ("coral", "irm", "mixup", "arm"):
        with pytest.raises(ValueError, match=f"{method} compares domains, and there is one: give two at least"):
            agentlib.train("domains", data=one, method=method, steps=2, progress=False)
    with pytest.raises(ValueError, match=r"ttt turns square images, and these examples are \(2,\)"):
        agentlib.train("domains", data=three(), method="ttt", steps=2, progress=False)
    with pytest.raises(ValueError, match="target_labels=3 are of a target, and there is none: give target="):
        agentlib.train("domains", data=one, target_labels=3, steps=2, progress=False)
    with pytest.raises(ValueError, match="target_labels=100 are more than the 30 of a class that a target has to give"):
        agentlib.train("domains", data=three(), target_labels=100, steps=2, progress=False)
    with pytest.raises(ValueError, match="importance weighs the sources by a target, and there is none"):
        agentlib.train("domains", data=one, method="importance", steps=2, progress=False)
