"""Sequences as examples: their order counts, and what came long ago."""

from typing import Any

import pytest
import torch

import agentlib
from agentlib.backbones import LSTM, MLP, WholeSequence
from agentlib.data import Dataset
from agentlib.data.sequences import adding, which_first


def test_the_features_are_those_of_the_last_step():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        memory, x = LSTM(3, 5), torch.randn(4, 6, 3)
    features = memory(x)[0]
    assert torch.equal(WholeSequence(memory)(x), features[:, -1])
    assert torch.equal(WholeSequence(memory, "mean")(x), features.mean(1))
    with pytest.raises(ValueError, match="a MLP has no memory"):
        WholeSequence(MLP(3))
    with pytest.raises(ValueError, match="unknown pool 'first'"):
        WholeSequence(memory, "first")


def test_the_data_is_as_it_says():
    """The labels by the letters themselves, and the sums by the numbers themselves."""
    letters, both = which_first(50, seed=3, steps=7), adding(50, seed=3, steps=7)
    a, b = (letters.x[..., number].argmax(1) for number in (0, 1))
    assert (letters.x[..., :2].sum((1, 2)) == 2).all()
    assert torch.equal(letters.targets, (a > b).long())
    assert (both.x[..., 1].sum(1) == 2).all()
    for x, y in zip(both.x, both.targets, strict=True):
        torch.testing.assert_close(x[x[:, 1] == 1, 0].sum(), y)
    assert adding().y.var().item() == pytest.approx(1 / 6, rel=0.05)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="steps must be a whole number from 2, not 1"):
        adding(5, steps=1)


@pytest.mark.parametrize("backbone", ["lstm", "transformer", LSTM(4, 8)], ids=["lstm", "transformer", "module"])
def test_a_classifier_reads_sequences(backbone, tmp_path):
    data = which_first(200)
    result: Any = agentlib.train(
        "classifier", data=data, backbone=backbone, steps=2, progress=False, out=tmp_path / "run"
    )
    agent = agentlib.Agent.load(tmp_path / "run" / "agent.safetensors")
    assert agent.act(data.x[:5].numpy()).tolist() == result.agent.act(data.x[:5].numpy()).tolist()
    assert not agent.has_memory


@pytest.mark.slow
def test_order_is_learned_where_a_bag_of_letters_is_at_chance():
    data, numbers = which_first(), {"steps": 400, "net_arch": (32,), "learning_rate": 1e-2, "progress": False}
    result: Any = agentlib.train("classifier", data=data, backbone="lstm", threads=1, **numbers)  # type: ignore[arg-type]
    bag: Any = agentlib.train("classifier", data=Dataset(data.x.sum(1), data.y, data.classes), threads=1, **numbers)  # type: ignore[arg-type]
    assert result.measures["test/accuracy"] >= 0.95
    assert 0.4 < bag.measures["test/accuracy"] < 0.6


@pytest.mark.thorough
def test_the_adding_problem():
    data = adding()
    result: Any = agentlib.train(
        "regressor", data=data, backbone="lstm", net_arch=(64,), normalize=False, steps=2_500, learning_rate=3e-3,
        max_grad_norm=1.0, progress=False, threads=1,
    )  # fmt: skip
    assert result.measures["test/rmse"] ** 2 < 0.01  # 0.0003 here; always the mean has 1/6
