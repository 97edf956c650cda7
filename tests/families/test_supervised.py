"""Runs about data: what they leave behind, from names and from files, and what goes wrong."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib import Agent
from agentlib.backbones import RunningNorm
from agentlib.core.recipe import Problem
from agentlib.data import Batches, Dataset, Splits, parts
from agentlib.families import examples
from agentlib.learners import Classifier, ClassifierConfig
from agentlib.runs.plan import job_of
from agentlib.runs.result import Result


def points(n=120, classes=("left", "right"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return Dataset(torch.randn(n, 3, generator=generator) + 3.0 * labels[:, None], labels, classes)


def train(what, data, steps=60, **settings) -> Result:
    result = agentlib.train(what, data=data, steps=steps, progress=False, compile=False, **settings)
    assert isinstance(result, Result)
    return result


@pytest.mark.slow
def test_a_classifier_is_an_agent_with_measures_and_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    data = points()
    result = train("classifier", data, net_arch=(8,), learning_rate=1e-2, out=tmp_path / "run")
    assert result.measures["test/accuracy"] > 0.9
    assert {picture.name for picture in result.pictures} == {"reliability.png", "confusion.png", "learning_curve.png"}
    agent = Agent.load(tmp_path / "run" / "agent.safetensors")
    test = parts(data, seed=0).test
    accuracy = (agent.act(test.x.numpy()) == test.targets.numpy()).mean()
    assert accuracy == pytest.approx(result.measures["test/accuracy"])
    assert agent.about["classes"] == ["left", "right"]
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["measures"] == pytest.approx(result.measures)
    assert record["references"]["test/accuracy"][1] == "the most frequent class"
    assert "in training" in record["fit"]
    assert "Hoeffding" in record["generalization"]


def test_numbers_and_their_units(tmp_path):
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    result = train("regressor", Dataset(x, 1000.0 + 50.0 * x[:, 0]), net_arch=(), learning_rate=3e-2, steps=300)
    assert result.measures["test/r2"] > 0.95
    assert result.agent is not None
    assert float(result.agent.act(np.array([1.0, 0.0], np.float32))[0]) == pytest.approx(1050, abs=10)


def test_adversarial_training():
    data = points()
    squeezed = Dataset(((data.x + 4) / 12).clamp(0, 1), data.y, data.classes)
    settings = {"net_arch": (8,), "learning_rate": 1e-2, "epsilon": 0.05}
    result = train("adversarial", squeezed, attack_steps=2, **settings)
    assert result.measures["test/robust_accuracy_50x3"] <= result.measures["test/robust_accuracy"]
    assert result.measures["test/robust_accuracy"] <= result.measures["test/accuracy"]
    assert result.agent is not None
    assert (result.agent.about["epsilon"], result.agent.about["norm"]) == (0.05, "linf")
    with pytest.raises(ValueError, match=r"outside of bounds=0 to 1"):
        train("adversarial", data, **settings)
    one_beyond = [Dataset(squeezed.x + (0.5 if i else 0.0), data.y, data.classes) for i in range(3)]
    with pytest.raises(ValueError, match=r"outside of bounds=0 to 1"):
        train("adversarial", Splits(*one_beyond), **settings)


@pytest.mark.parametrize(("steps", "every"), [(60, 74), (600, 74), (2_000, 100)])
def test_evaluating_under_attack_costs_a_tenth_of_a_run_at_most(steps, every):
    """By the passes through the network: 250 and 240 examples and 11 passes, beside 64 examples and 8 passes.

    An evaluation takes two thirds of the time that these say, since it has larger batches.
    """
    job: Any = job_of("adversarial", Problem(data=points(1_600), steps=steps), bounds=None, net_arch=(8,))
    judge = job.judge
    assert [len(part) for part in judge.splits] == [880, 240, 480]
    assert judge.eval_every == every
    assert judge.facts["attack_loss"] == "cross_entropy"
    assert 0.1 * judge.eval_every * 64 * 8 >= 2 / 3 * (250 + 240) * 11


@pytest.mark.parametrize(("steps", "every", "curve"), [(50, 25, 100), (1_000, 25, 100), (5_000, 100, 320)])
def test_evaluating_costs_a_tenth_of_a_run_at_most(steps, every, curve):
    """By the passes through the network: one for 300 examples and those of the curve, three for batches of 64."""
    judge: Any = job_of("classifier", Problem(data=points(2_000), steps=steps)).judge
    assert len(judge.splits.validation) == 300
    assert [judge.eval_every, judge.curve_examples] == [every, curve]
    assert 300 + curve <= 0.1 * every * 3 * 64


@pytest.mark.slow
def test_adversarial_training_without_bounds_measures_epsilon_in_deviations(tmp_path):
    data = points()
    wide = Dataset(data.x * torch.tensor([1.0, 10.0, 100.0]), data.y, data.classes)
    settings = {"net_arch": (8,), "learning_rate": 1e-2, "epsilon": 0.1, "attack_steps": 2, "bounds": None}
    result = train("adversarial", wide, out=tmp_path / "run", **settings)
    assert result.measures["test/robust_accuracy"] > 0.8
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    curve = list(record["accuracy_by_epsilon"].values())
    assert curve[0] == result.measures["test/accuracy"]
    assert record["attack_loss"] == "cross_entropy"
    assert curve[-1] <= curve[0]
    assert {"robustness.png", "learning_curve.png"} <= {picture.name for picture in result.pictures}


def test_adversarial_training_goes_on_from_an_agent():
    data = points()
    agent = train("classifier", data, net_arch=(8,), learning_rate=1e-2).agent
    assert agent is not None
    settings = {"epsilon": 0.1, "attack_steps": 2, "bounds": None, "average": 0.9}
    result = train("adversarial", data, steps=20, agent=agent, **settings)
    assert result.agent is not None
    assert result.agent.observation_space == agent.observation_space
    assert result.measures["test/accuracy"] > 0.9


def test_statistics_are_of_the_training_part_alone():
    data = points()
    result = train("classifier", data, net_arch=(), steps=2)
    norm = next(module for module in result.model.modules() if isinstance(module, RunningNorm))
    train_part = parts(data, seed=0).train
    assert torch.allclose(norm.mean.float(), train_part.x.mean(0), atol=1e-5)


def test_a_constant_feature_does_no_harm():
    data = points()
    x = torch.cat([data.x, torch.full((len(data), 1), 7.0)], 1)
    result = train("classifier", Dataset(x, data.y, data.classes), net_arch=(8,), learning_rate=1e-2)
    assert result.measures["test/accuracy"] > 0.9


def test_from_a_file(tmp_path):
    data = points()
    rows = [",".join(f"{value:.4f}" for value in row) for row in data.x.tolist()]
    lines = [f"{row},{data.classes[label]}" for row, label in zip(rows, data.targets.tolist(), strict=True)]
    (tmp_path / "table.csv").write_text("a,b,c,side\n" + "\n".join(lines) + "\n")
    result = train("classifier", str(tmp_path / "table.csv"), net_arch=(8,), learning_rate=1e-2)
    assert result.measures["test/accuracy"] > 0.9
    with pytest.raises(ValueError, match="not the classes left, right: a classifier learns such"):
        train("regressor", str(tmp_path / "table.csv"))


@pytest.mark.slow
def test_early_stopping_gives_the_best_weights_back():
    generator = torch.Generator().manual_seed(0)
    noise = Dataset(torch.randn(60, 5, generator=generator), torch.arange(60) % 2, ("a", "b"))
    result = train("classifier", noise, steps=1000, net_arch=(64,), learning_rate=1e-2, patience=3)
    patient = train("classifier", noise, steps=1000, net_arch=(64,), learning_rate=1e-2, patience=None)
    assert result.measures["test/loss"] < patient.measures["test/loss"]


def test_a_batch_that_is_no_number_is_named(tmp_path, monkeypatch):
    data = points()

    def spoiled(x):
        return torch.where(x == rows.train.x[5], torch.nan, x)

    rows = parts(data, seed=0)
    real = Batches
    monkeypatch.setattr(examples, "Batches", lambda *args, **kwargs: real(*args, **kwargs | {"transform": spoiled}))
    with pytest.raises(FloatingPointError, match=r"for 1 of 16 examples: rows 5 of the training data"):
        train("classifier", data, net_arch=(8,), batch_size=16, out=tmp_path / "run")
    # What is worth nothing is not kept: there is what was saved at the start.
    kept = Agent.load(tmp_path / "run" / "agent.safetensors")
    assert all(parameter.isfinite().all() for parameter in kept.policy.parameters())


def test_weights_for_rare_classes_and_wrong_ones():
    data = points()
    rare = data.take(torch.cat([torch.arange(0, 120, 2), torch.arange(1, 40, 2)]))
    train("classifier", rare, net_arch=(), class_weights="balanced", steps=5)
    with pytest.raises(ValueError, match="one number for each of the 2 classes"):
        train(ClassifierConfig(class_weights=(1.0,)), data, steps=5)
    assert Classifier.tiny()[0].class_weights is not None


def test_a_feature_that_was_constant_in_training_may_move_a_little():
    data = points(400)
    constant = Dataset(torch.cat([data.x, torch.full((400, 1), 0.1)], 1), data.y, data.classes)
    result = train("classifier", constant, net_arch=(16,), learning_rate=1e-2, steps=200)
    moved = constant.x + torch.tensor([0.0, 0.0, 0.0, 0.001])
    result.model.eval()
    before, after = (result.model(x)[0].detach() for x in (constant.x, moved))
    torch.testing.assert_close(after, before, rtol=0.0, atol=0.01)  # scaled by 1e4, it moved by 10, and they by several
    scale = train("adversarial", constant, net_arch=(8,), bounds=None, attack_steps=1, steps=2)
    assert scale.measures["test/robust_accuracy"] >= 0.0


def test_the_result_looks_at_all_test_examples_and_at_some_of_the_others_in_small_pieces(monkeypatch):
    monkeypatch.setattr(examples, "JUDGED", 100)
    data = Splits(*(points(n, seed=n) for n in (1_000, 400, 300)))
    job = job_of("classifier", Problem(data=data, steps=10), net_arch=(4,))
    predict, seen = Classifier.predict, list[int]()

    def counted(self, x):
        seen.append(len(x))
        return predict(self, x)

    monkeypatch.setattr(Classifier, "predict", counted)
    job.judge.finish()
    assert sum(seen) == 100 + 100 + 300
    assert max(seen) <= 128
