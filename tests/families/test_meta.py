"""MAML and prototypical networks from the top."""

import pytest
import torch

import agentlib
from agentlib.backbones import spec_of
from agentlib.data import Dataset, Pairs, Pools
from agentlib.families.tasks import accuracies, episodes_of, nearest_mean
from agentlib.learners import MAMLConfig, Prototypical, PrototypicalConfig
from agentlib.policies import CategoricalPolicy, Predictor
from agentlib.runs.result import Result


def clusters(classes=10, each=8):
    """Points around as many corners, whose labels are told by the place alone."""
    generator = torch.Generator().manual_seed(0)
    corners = 4.0 * torch.randn(classes, 6, generator=generator)
    x = corners.repeat_interleave(each, 0) + 0.3 * torch.randn(classes * each, 6, generator=generator)
    return Dataset(x, torch.arange(classes).repeat_interleave(each), tuple("ABCDEFGHIJ"[:classes]))


@pytest.mark.slow
def test_maml_on_sinusoids(tmp_path):
    result = agentlib.train("maml", data="sinusoids", steps=30, out=tmp_path / "run", progress=False)
    assert isinstance(result, Result)
    assert isinstance(result.model, Predictor)
    names = ["loss_after_0", "loss_after_1", "loss_after_10", "loss_without_task"]
    assert list(result.measures) == [f"test/{name}" for name in names]
    assert result.measures["test/loss_without_task"] == pytest.approx(3.01, abs=0.25)
    assert result.measures["test/loss_after_10"] < result.measures["test/loss_after_0"]
    assert [path.name for path in result.pictures] == ["adaptation.png", "tasks.png"]
    assert spec_of(result.backbone)["arguments"]["hidden"] == [40, 40]
    assert (tmp_path / "run" / "backbone.safetensors").is_file()


@pytest.mark.slow
def test_maml_on_classes(tmp_path):
    config = MAMLConfig(loss="cross_entropy", ways=3, shots=2, queries=2, held_out=0.4, batch_size=4)
    result = agentlib.train(config, data=clusters(), steps=5, out=tmp_path / "run", progress=False)
    assert isinstance(result, Result)
    assert isinstance(result.model, CategoricalPolicy)
    assert result.measures["test/accuracy_after_0"] == pytest.approx(1 / 3, abs=0.1)
    assert [path.name for path in result.pictures] == ["adaptation.png"]


def lines(tasks=40, n=30, outputs=(), seed=0):
    """Tasks of one's own: lines through the origin, whose slopes differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(tasks, n, 1, generator=generator) * 4.0 - 2.0
    slope = torch.randn(tasks, 1, *outputs, generator=generator)
    return x, slope * (x if outputs else x[..., 0])


@pytest.mark.parametrize("outputs", [(), pytest.param((1,), marks=pytest.mark.slow), (2,)])
def test_maml_on_tasks_of_ones_own(outputs):
    x, y = lines(outputs=outputs)
    pools = Pools(x, y, shots=5, queries=10, tasks=40)
    config = MAMLConfig(inner_learning_rate=0.1, held_out=0.25, learning_rate=1e-2)
    result = agentlib.train(config, data=pools, steps=60, progress=False)
    assert isinstance(result, Result)
    assert isinstance(result.model, Predictor)
    assert result.model.outputs == (outputs or (1,))[0]
    # Ten tasks are held out, and all 25 examples of each that are not among its five shots are predicted.
    floor = float((y[30:] - y[:30].mean((0, 1))).square().mean())
    assert result.measures["test/loss_without_task"] == pytest.approx(floor, rel=0.1)
    assert result.measures["test/loss_after_10"] < 0.5 * result.measures["test/loss_after_0"]
    assert result.measures["test/loss_after_10"] < 0.5 * floor


@pytest.mark.slow
def test_pictures_and_resuming_of_tasks_of_ones_own(tmp_path):
    x, y = lines(tasks=10)
    pools = Pools(x, y, shots=5, queries=10, tasks=4)
    result = agentlib.train("maml", data=pools, steps=10, out=tmp_path / "run", progress=False)
    assert isinstance(result, Result)
    assert [path.name for path in result.pictures] == ["adaptation.png", "tasks.png"]
    again = agentlib.train(resume=tmp_path / "run", data=pools, progress=False)
    assert isinstance(again, Result)
    assert again.measures == result.measures


def test_maml_on_classes_of_ones_own():
    x = torch.randn(20, 12, 2, generator=torch.Generator().manual_seed(0))
    y = (x[..., 0] > 0).long() ^ (torch.arange(20) % 2)[:, None]  # half of the tasks are the other way round
    config = MAMLConfig(loss="cross_entropy", inner_learning_rate=0.5, held_out=0.5)
    result = agentlib.train(config, data=Pools(x, y, 6, 6, 4), steps=40, progress=False)
    assert isinstance(result, Result)
    assert isinstance(result.model, CategoricalPolicy)
    assert result.model.n_actions == 2
    assert result.measures["test/accuracy_after_0"] == pytest.approx(0.5, abs=0.15)
    assert result.measures["test/accuracy_after_10"] > 0.65
    with pytest.raises(ValueError, match="loss='mse' is not for tasks of classification"):
        agentlib.train("maml", data=Pools(x, y, 6, 6, 4), progress=False)
    with pytest.raises(ValueError, match="prototypical learns from the classes of a data set, and not from Pools"):
        agentlib.train("prototypical", data=Pools(x, y, 6, 6, 4), progress=False)
    with pytest.raises(ValueError, match="0 of 20 tasks cannot be held out"):
        agentlib.train(config, data=Pools(x, y, 6, 6, 4), held_out=0.0, progress=False)


@pytest.mark.slow
def test_prototypical(tmp_path):
    config = PrototypicalConfig(ways=4, shots=1, queries=3, held_out=0.4)
    result = agentlib.train(config, data=clusters(), steps=20, out=tmp_path / "run", progress=False)
    assert isinstance(result, Result)
    assert {"test/4_way_1_shot", "test/4_way_1_shot_pixels", "test/4_way_1_shot_random_encoder"} <= set(result.measures)
    assert "test/20_way_1_shot" not in result.measures, "four classes were held out"
    assert "test/4_way_5_shot" not in result.measures, "eight examples of each are too few"
    assert result.measures["test/4_way_1_shot_pixels"] > 0.95
    # The model is a classifier of what it is shown.
    new = clusters().x[-32:].unflatten(0, (4, 8))  # four classes that it never saw
    support = Pairs(new[:, 0][None], torch.arange(4)[None])
    logits = result.model(support, new[:, 1:].flatten(0, 1)[None], 4)
    assert float((logits.argmax(-1)[0] == torch.arange(4).repeat_interleave(7)).float().mean()) > 0.8


def test_episodes_are_judged_by_the_nearest_mean():
    data = clusters()
    found = accuracies(nearest_mean, episodes_of(data, 5, 2, queries=3, count=40))
    assert found.shape == (40,)
    assert found.mean() > 0.95
    shuffled = Dataset(
        data.x, data.y[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))], data.classes
    )
    found = accuracies(nearest_mean, episodes_of(shuffled, 5, 2, queries=3, count=200))
    assert abs(found.mean() - 0.2) < 0.08


def test_judged_features_are_classified_as_the_network_does():
    """`predict` and `classify` apart equal the network on the examples; and the nearest mean, on raw points."""
    learner, source = Prototypical.tiny()
    source.advance()
    tasks = source.sample()
    support, query = (Pairs(learner.predict(part.x.flatten(0, 1)).unflatten(0, part.x.shape[:2]), part.y)
                      for part in (tasks.support, tasks.query))  # fmt: skip
    logits = learner.classify(tasks._replace(support=support, query=query))
    torch.testing.assert_close(logits, learner.network(tasks.support, tasks.query.x, 4))
    torch.testing.assert_close(-nearest_mean(tasks).square(), learner.classify(tasks), atol=1e-5, rtol=1e-4)


def test_bad_input():
    with pytest.raises(ValueError, match="loss='cross_entropy' is not for tasks of regression: give loss='mse'"):
        agentlib.train("maml", data="sinusoids", loss="cross_entropy", progress=False)
    with pytest.raises(ValueError, match="loss='mse' is not for tasks of classification: give loss='cross_entropy'"):
        agentlib.train("maml", data=clusters(), progress=False)
    with pytest.raises(ValueError, match="prototypes stand for classes, not for tasks of regression"):
        agentlib.train("prototypical", data="sinusoids", progress=False)
    with pytest.raises(ValueError, match=r"20 ways .* the data has 8 classes"):
        agentlib.train("prototypical", data="digits", ways=20, held_out=0.2, progress=False)
    with pytest.raises(ValueError, match="unknown data set 'sinusoid'"):
        agentlib.train("maml", data="sinusoid", loss="cross_entropy", progress=False)
    with pytest.raises(ValueError, match="classes can be held out of labelled data only"):
        agentlib.train("prototypical", data="diabetes", progress=False)
