"""Sequences as examples: their order counts, and what came long ago."""

from typing import Any

import pytest
import torch

import agentlib
from agentlib.backbones import LSTM, MLP, WholeSequence
from agentlib.data import Dataset

T = 20


def which_came_first(n: int = 2_000, seed: int = 0) -> Dataset:
    """Each sequence has one a and one b among c and d; the label says which came first, as no count of letters does."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(2, 4, (n, T), generator=generator)
    places = torch.rand(n, T, generator=generator).argsort(1)[:, :2]
    letters.scatter_(1, places, torch.tensor([[0, 1]]).expand(n, 2))
    return Dataset(torch.eye(4)[letters], (places[:, 0] > places[:, 1]).long(), ("a first", "b first"))


def adding(n: int, steps: int, seed: int = 0) -> Dataset:
    """The adding problem (Hochreiter & Schmidhuber 1997): the sum of two marked numbers, whose variance is 1/6."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(n, steps, generator=generator)
    places = torch.rand(n, steps, generator=generator).argsort(1)[:, :2]
    marks = torch.zeros(n, steps).scatter_(1, places, 1.0)
    return Dataset(torch.stack([numbers, marks], -1), (numbers * marks).sum(1))


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


@pytest.mark.parametrize("backbone", ["lstm", "transformer", LSTM(4, 8)], ids=["lstm", "transformer", "module"])
def test_a_classifier_reads_sequences(backbone, tmp_path):
    data = which_came_first(200)
    result: Any = agentlib.train(
        "classifier", data=data, backbone=backbone, steps=2, progress=False, out=tmp_path / "run"
    )
    agent = agentlib.Agent.load(tmp_path / "run" / "agent.safetensors")
    assert agent.act(data.x[:5].numpy()).tolist() == result.agent.act(data.x[:5].numpy()).tolist()
    assert not agent.has_memory


@pytest.mark.slow
def test_order_is_learned_where_a_bag_of_letters_is_at_chance():
    data, numbers = which_came_first(), {"steps": 400, "net_arch": (32,), "learning_rate": 1e-2, "progress": False}
    result: Any = agentlib.train("classifier", data=data, backbone="lstm", threads=1, **numbers)  # type: ignore[arg-type]
    bag: Any = agentlib.train("classifier", data=Dataset(data.x.sum(1), data.y, data.classes), threads=1, **numbers)  # type: ignore[arg-type]
    assert result.measures["test/accuracy"] >= 0.95
    assert 0.4 < bag.measures["test/accuracy"] < 0.6


@pytest.mark.thorough
def test_the_adding_problem():
    data = adding(10_000, 50)
    result: Any = agentlib.train(
        "regressor", data=data, backbone="lstm", net_arch=(64,), normalize=False, steps=2_500, learning_rate=3e-3,
        max_grad_norm=1.0, progress=False, threads=1,
    )  # fmt: skip
    assert result.measures["test/rmse"] ** 2 < 0.01  # 0.0003 here; always the mean has 1/6
