"""CycleGAN: losses at their null values, the identity, and a shift between two clouds that is found without pairs."""

from typing import Any

import pytest
import torch

import agentlib
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.engine import run
from agentlib.learners.generative.cyclegan import Cycle, CycleGAN, CycleGANConfig, least_squares
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


def test_least_squares_where_nothing_is_known_and_where_all_is():
    half = torch.full((6,), 0.5)
    assert float(least_squares(half, half)) == 0.5
    assert float(least_squares(torch.ones(6), torch.zeros(6))) == 0.0


def test_the_identity_has_no_cycle_loss_and_no_identity_loss():
    """What is left of the generators' loss is that of the discriminators, and the product gives each example back."""
    made: Any = CycleGAN.tiny()
    learner, source = made
    learner.model = learner.average.network = Cycle(torch.nn.Identity(), torch.nn.Identity())
    for step in (learner.model_step, learner.critics_step):
        step.forward = lambda loss, clock: loss
    learner.average.follow = lambda rate: None
    for critic in learner.critics:
        critic.forward = lambda x, label=None: torch.full((len(x),), 0.5)
    source.advance()
    batch: Any = source.sample()
    metrics = learner.update(batch).metrics
    assert float(metrics["cycle"]) == 0.0
    assert float(metrics["generator_loss"]) == 0.5  # (1/2 - 1)^2, twice
    assert float(metrics["discriminator_loss"]) == 1.0
    assert torch.equal(learner.predict(batch.x), batch.x)


def test_kinds_are_two_labels_and_the_rarer_one_has_the_number():
    x, y = torch.arange(10.0)[:, None], torch.tensor([0, 1, 2, 2, 2, 0, 1, 2, 2, 0])
    data = Dataset(x, y, ("a", "b", "c"))
    assert CycleGAN.examples(data, CycleGANConfig()).x[:, :, 0].tolist() == [[0, 1], [5, 6]]
    assert CycleGAN.examples(data, CycleGANConfig(kinds=("c", "a"))).x[:, :, 0].tolist() == [[2, 0], [3, 5], [4, 9]]
    with pytest.raises(ValueError, match="of two labels into each other, not of a, d; the data has a, b, c"):
        CycleGAN.examples(data, CycleGANConfig(kinds=("a", "d")))
    with pytest.raises(ValueError, match="not of none; the data has none"):
        CycleGAN.examples(Dataset(x), CycleGANConfig())
    with pytest.raises(ValueError, match=r"rescale them, \(x \+ 1\) / 2"):
        CycleGAN.examples(Dataset(torch.linspace(-1, 1, 40).view(10, 1, 2, 2), y, ("a", "b", "c")), CycleGANConfig())
    with pytest.raises(ValueError, match="takes backbone auto, or a module"):
        job_of("cyclegan", Problem(data=Dataset(x.repeat(9, 1), y.repeat(9), ("a", "b", "c")), backbone="cnn"))


def test_a_run_shows_both_ways(tmp_path):
    data = Dataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 2, ("a", "b"))
    how: Any = {"steps": 2, "widths": (4, 8), "batch_size": 8, "out": tmp_path / "run", "progress": False}
    result: Any = agentlib.train("cyclegan", data=data, **how)
    assert [path.name for path in result.pictures] == ["turned.png"]
    (measure,) = result.judged
    assert (measure.name, measure.whose) == ("test/reconstruction_error", "the training mean")
    model: Any = load_model(tmp_path / "run")[0]
    with torch.no_grad():
        images = model(torch.rand(3, 1, 8, 8), 0)
    assert images.shape == (3, 1, 8, 8)
    assert 0.0 < float(images.min()) < float(images.max()) < 1.0


@pytest.mark.slow
def test_a_shift_is_found_without_pairs(tmp_path):
    """Two clouds of one shape; the map that keeps each point's place in its cloud is the shift."""
    cloud = torch.rand(4_000, 2) * torch.tensor([2.0, 0.5])
    shift = torch.tensor([1.0, -2.0])
    data = Dataset(torch.cat([cloud[:2_000], cloud[2_000:] + shift]), torch.arange(4_000) // 2_000, ("a", "b"))
    config = CycleGANConfig(batch_size=128, net_arch=(64, 64), identity=0.0)
    job = job_of(config, Problem(data=data, steps=1_500))
    for _ in run(job.learner, job.source, 1_500, compile=False):
        pass
    model: Any = load_model(save_model(job.product, tmp_path / "model"))[0]
    with torch.no_grad():
        turned, again = model(cloud[:500], 1), model(model(cloud[:500], 1), 0)
    assert float((again - cloud[:500]).abs().mean()) < 0.1
    torch.testing.assert_close(turned.mean(0), cloud.mean(0) + shift, atol=0.15, rtol=0.0)
    torch.testing.assert_close(turned.std(0), cloud.std(0), atol=0.15, rtol=0.0)
