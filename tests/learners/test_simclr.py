"""NT-Xent against a loop, at its null value, and a learner that finds what two views share."""

import math

import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data import Batches, Dataset
from agentlib.engine import run
from agentlib.learners.self_supervised.simclr import Projector, SimCLR, SimCLRConfig, nt_xent, nt_xent_logits


def losses_of(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    return nt_xent(nt_xent_logits(torch.cat([first, second]), temperature))[0]


def loop(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The formula, term by term."""
    z, n = [*first, *second], len(first)

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        return a @ b / (a.norm() * b.norm() * temperature)

    losses = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = torch.stack([similarity(z[i], z[k]).exp() for k in range(2 * n) if k != i])
        losses.append(-(similarity(z[i], z[j]).exp() / others.sum()).log())
    return torch.stack(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_a_loop(temperature):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator).unbind()
    torch.testing.assert_close(losses_of(first, second, temperature), loop(first, second, temperature))


def test_gradients_equal_those_of_the_loop():
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator).requires_grad_()
    (ours,) = torch.autograd.grad(losses_of(views[0], views[1], 0.5).mean(), views)
    (theirs,) = torch.autograd.grad(loop(views[0], views[1], 0.5).mean(), views)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n", [2, 16, 256])
def test_null_value(n):
    """Where all projections are equal, each view finds its partner by chance among 2N - 1; not among 2N."""
    same = torch.ones(n, 3, dtype=torch.float64)
    losses = losses_of(same, same, 0.5)
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(2 * n - 1)))


def test_lengths_do_not_count_and_partners_are_mutual():
    first, second = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2)).unbind()
    torch.testing.assert_close(losses_of(3.0 * first, second, 0.5), losses_of(first, 0.2 * second, 0.5))
    _, partner = nt_xent(torch.zeros(8, 8))
    assert partner.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert torch.equal(partner[partner], torch.arange(8))
    assert torch.equal(nt_xent_logits(first, 0.5).diagonal(), torch.full((4,), -math.inf))


def test_perfect_views_reach_the_bound():
    """Partners equal, all others orthogonal: -log(e / (e + 2N - 2)) at tau = 1."""
    views = torch.eye(8, dtype=torch.float64)
    expected = -math.log(math.e / (math.e + 14))
    assert float(losses_of(views, views, 1.0).mean()) == pytest.approx(expected, abs=1e-12)


def test_it_learns_what_the_views_share():
    """Four of eight numbers are the example's, the others are drawn anew for each view: features keep the first."""

    def view(x: Tensor) -> Tensor:
        return torch.cat([x[:, :4], torch.randn_like(x[:, 4:])], 1)

    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(3))
    config = SimCLRConfig(batch_size=64, projection_dim=16)
    with fresh_weights(0):
        network = Projector(MLP(8, hidden=(64, 64)), config.projection_dim)
    learner = SimCLR(network, adam(1e-3), config)
    source = Batches(Dataset(x), config.batch_size, transform=view, views=2)
    metrics = [update.metrics for _, update in run(learner, source, 300, compile=False)]
    assert float(metrics[-1]["loss"]) < math.log(127) - 1.0
    assert float(metrics[-1]["accuracy"]) > 0.5
    assert float(metrics[-1]["spread"]) > 0.5, "collapsed"
    with torch.no_grad():
        changed = {}
        for name, columns in {"shared": slice(0, 4), "drawn": slice(4, 8)}.items():
            other = x.clone()
            other[:, columns] = x.roll(1, 0)[:, columns]
            changed[name] = float(nn.functional.cosine_similarity(network(x), network(other)).mean())
    assert changed["drawn"] > changed["shared"] + 0.3


def test_per_sample_is_each_examples_loss():
    learner, source = SimCLR.tiny()
    source.advance()
    with torch.random.fork_rng(devices=[]):
        batch = source.sample()
    with torch.no_grad():
        first, second = learner.network(batch.x[0]), learner.network(batch.x[1])
        losses = losses_of(first, second, learner.config.temperature)
    update = learner.update(batch)
    assert update.per_sample is not None
    torch.testing.assert_close(update.per_sample, (losses[:16] + losses[16:]) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"temperature": 0.0}, "temperature"),
        ({"crop": 1.5}, "crop"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        SimCLRConfig(**settings)
