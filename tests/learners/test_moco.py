"""MoCo: its loss by a loop and at its null value, the queue, the average without gradients, and refusals."""

import math

import pytest
import torch
from torch.nn import functional

import agentlib
from agentlib.core.recipe import Problem
from agentlib.data import Batches, Dataset
from agentlib.engine import run
from agentlib.learners.self_supervised.moco import MoCo, MoCoConfig, key_logits
from agentlib.runs.plan import job_of


def random(*shape, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(x, dim=-1)


def batch_of(source):
    source.advance()
    source.fill_ticks(source.clock)
    return source.sample()


def test_equals_a_loop():
    query, key, queue, tau = random(4, 5), random(4, 5, seed=1), random(7, 5, seed=2), 0.3
    losses = -key_logits(query, key, queue, tau).log_softmax(1)[:, 0]
    for i in range(4):
        own = math.exp(float(query[i] @ key[i]) / tau)
        others = sum(math.exp(float(query[i] @ negative) / tau) for negative in queue)
        assert float(losses[i]) == pytest.approx(-math.log(own / (own + others)), abs=1e-12)


@pytest.mark.parametrize("size", [1, 31, 65_536])
def test_null_value(size):
    """Where all keys are equal, the own one is found by chance among K + 1: ln 65537 = 11.09 for the paper's queue."""
    same = torch.full((1, 3), 3.0**-0.5, dtype=torch.float64)
    losses = -key_logits(same.expand(2, -1), same.expand(2, -1), same.expand(size, -1), 0.07).log_softmax(1)[:, 0]
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(size + 1)))


def test_keys_join_the_queue_after_the_loss_and_the_oldest_leave_it():
    learner, source = MoCo.tiny()
    for _ in range(3):
        batch, before = batch_of(source), learner.queue.clone()
        with torch.no_grad():
            key = functional.normalize(learner.average(batch.x[1]), dim=1)
            query = functional.normalize(learner.network(batch.x[0]), dim=1)
            expected = -key_logits(query, key, before, learner.config.temperature).log_softmax(1)[:, 0]
        update = learner.update(batch)
        torch.testing.assert_close(update.per_sample, expected)
        assert torch.equal(learner.queue, torch.cat([before[16:], key]))
    assert not learner.queue.requires_grad


def test_the_average_follows_and_has_no_gradient():
    learner, source = MoCo.tiny()
    before = [p.detach().clone() for p in learner.average.parameters()]
    learner.update(batch_of(source))
    for old, mine, theirs in zip(before, learner.average.parameters(), learner.network.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.99 * old + 0.01 * theirs)
        assert not mine.requires_grad


def test_a_queue_shorter_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="queue_size is 100, less than the 256 keys of a batch"):
        MoCoConfig(queue_size=100)
    with pytest.raises(ValueError, match="queue_size is 15, less than the 16 keys of a batch"):
        agentlib.train("moco", data="digits", queue_size=15, batch_size=16, progress=False)
    assert MoCoConfig(queue_size=16, batch_size=16).queue_size == 16


def test_it_learns_what_the_views_share():
    """Of the 8 x 8 images the left half is the example's, the right half is drawn for each view."""

    def view(x):
        return torch.cat([x[..., :4], torch.rand_like(x[..., 4:])], -1)

    images = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    config = MoCoConfig(batch_size=64, queue_size=128, net_arch=(64, 64))
    learner = job_of(config, Problem(data=Dataset(images), steps=300)).learner
    source = Batches(Dataset(images), 64, transform=view, views=2)
    metrics = [update.metrics for _, update in run(learner, source, 300, compile=False)]
    assert float(metrics[-1]["accuracy"]) > 0.5
    assert float(metrics[-1]["spread"]) > 0.5, "collapsed"
