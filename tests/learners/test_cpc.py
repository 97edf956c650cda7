"""CPC: InfoNCE at its null value and below its bounds, bands, the loss by a loop, and what it learns."""

import math

import pytest
import torch

from agentlib.core.recipe import Problem
from agentlib.data import Batches, Dataset
from agentlib.engine import run
from agentlib.learners.self_supervised.cpc import CPC, CPCConfig, bands, info_nce
from agentlib.runs.plan import job_of


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(source):
    source.advance()
    source.fill_ticks(source.clock)
    return source.sample()


@pytest.mark.parametrize("n", [2, 64])
def test_null_value(n):
    torch.testing.assert_close(info_nce(torch.ones(3, n, n)), torch.full((3, n), math.log(n)))


@pytest.mark.parametrize(
    ("information", "n", "expected"), [(2.0, 64, 1.80), (4.0, 64, 3.10), (6.0, 64, 3.74), (6.0, 256, 4.60)]
)
def test_the_bound_of_correlated_normal_numbers(information, n, expected):
    """By the best critic, log p(y | x) / p(y), in 20 dimensions: below the information, and below ln N."""
    d, batches = 20, 6_400 // n
    rho = math.sqrt(1.0 - math.exp(-2.0 * information / d))
    x, noise = random(2, batches, n, d)
    y = rho * x + math.sqrt(1.0 - rho**2) * noise
    distances = torch.cdist(rho * x, y).square()  # (batches, n, n)
    scores = 0.5 * y.square().sum(-1)[:, None] - 0.5 * distances / (1.0 - rho**2)
    found = math.log(n) - float(info_nce(scores).mean())
    assert found == pytest.approx(expected, abs=0.06)
    assert found < min(information, math.log(n))


def test_bands_from_top_to_bottom():
    images = torch.arange(4.0)[:, None].expand(2, 1, 4, 4) + torch.tensor([0.0, 10.0])[:, None, None, None]
    found = bands(images, 4)
    assert found.shape == (2, 4, 1, 4, 4)
    torch.testing.assert_close(
        found.mean((2, 3, 4)), torch.tensor([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]]), atol=0.5, rtol=0
    )
    assert torch.allclose(bands(images, 1)[:, 0], images)


def test_the_loss_is_that_of_a_loop():
    learner, source = CPC.tiny()
    batch = batch_of(source)
    with torch.no_grad():
        z = torch.stack([learner.network(piece) for piece in bands(batch.x, 3).unbind(1)], 1)  # (16, 3, 8)
        context = torch.stack([learner.memory(z[:, :t])[0][:, -1] for t in (1, 2)], 1)
        expected = torch.zeros(16)
        for step in range(2):
            scores = learner.heads[0](context[:, step]) @ z[:, step + 1].T / math.sqrt(8)
            for i in range(16):
                expected[i] -= (scores[i].exp()[i] / scores[i].exp().sum()).log() / 2
    update = learner.update(batch)
    torch.testing.assert_close(update.per_sample, expected)
    torch.testing.assert_close(update.metrics["information"], math.log(16) - expected.mean())


def test_windows_of_frames_are_read_as_they_are():
    """The first frame of eight numbers is random, the next ones repeat it with noise: what stays is found."""
    first = torch.rand(256, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    windows = first + 0.1 * torch.randn(256, 4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    config = CPCConfig(batch_size=32, net_arch=(32,), projection_dim=16, learning_rate=3e-3)
    learner = job_of(config, Problem(data=Dataset(first[:, 0]), steps=1)).learner
    *_, (_, update) = run(learner, Batches(Dataset(windows), 32), 200, compile=False)
    assert float(update.metrics["accuracy"]) > 0.6
    assert 1.5 < float(update.metrics["information"]) < math.log(32)
    with pytest.raises(ValueError, match="nothing is 2 steps ahead in windows of 2: give longer ones"):
        next(run(learner, Batches(Dataset(windows[:, :2]), 32), 1, compile=False))


def test_nothing_ahead_is_refused():
    with pytest.raises(ValueError, match="nothing is 3 steps ahead among 3 pieces"):
        CPCConfig(pieces=3, ahead=3)
