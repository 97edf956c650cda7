"""DINO: its loss by a loop and at its null value, centring, the average's schedule, and local views."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from agentlib.core import Clock, Cosine, at
from agentlib.engine import run
from agentlib.learners.self_supervised.dino import DINO, Cosines, DINOConfig, distillation_losses


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(source):
    source.advance()
    source.fill_ticks(source.clock)
    return source.sample()


def test_equals_a_loop_over_pairs_of_different_views():
    student, teacher = random(4, 3, 7), random(2, 3, 7, seed=1)
    expected = torch.zeros(3, dtype=torch.float64)
    for one in range(2):
        for other in range(4):
            if one != other:
                expected -= (teacher[one].softmax(1) * student[other].log_softmax(1)).sum(1) / 6
    torch.testing.assert_close(distillation_losses(student, teacher), expected)


@pytest.mark.parametrize("size", [8, 4096])
def test_null_value(size):
    """Equal shares for all prototypes have the loss ln D: 8.3178 for 4,096, whatever the teacher says."""
    losses = distillation_losses(torch.ones(3, 2, size, dtype=torch.float64), random(2, 2, size))
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(size)))


def test_the_same_prototype_for_all_has_no_loss_and_no_entropy():
    logits = 100.0 * functional.one_hot(torch.zeros(2, 3, dtype=torch.int64), 8).double()
    assert float(distillation_losses(logits, logits).max()) == pytest.approx(0.0, abs=1e-12)


def test_an_update_is_the_formula_and_the_centre_follows():
    learner, source = DINO.tiny()
    batch = batch_of(source)
    learner.config = config = replace(learner.config, center_momentum=0.9)
    learner.center.copy_(torch.linspace(-0.1, 0.1, config.prototypes))
    before = learner.center.clone()
    with torch.no_grad():
        scores = torch.stack([learner.average_head(learner.average(view)) for view in batch.x[:2]])
        teacher = (scores - before) / config.teacher_temperature
        with torch.random.fork_rng(devices=[]):
            views = [*batch.x[:2], learner.local(batch.x[2])]
        student = torch.stack([learner.head(learner.network(view)) for view in views]) / config.temperature
        expected = distillation_losses(student, teacher)
    update = learner.update(batch)
    torch.testing.assert_close(update.per_sample, expected)
    torch.testing.assert_close(learner.center, 0.9 * before + 0.1 * scores.mean((0, 1)))
    entropy = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(update.metrics["teacher_entropy"], entropy)


@pytest.mark.parametrize(("fraction", "keep"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)])
def test_the_average_slows_down_to_a_stop(fraction, keep):
    """The share that it keeps rises from `momentum` to 1 by half a cosine."""
    assert 1.0 - at(Cosine(1.0 - 0.99), Clock(0, 0, fraction)) == pytest.approx(keep)
    learner, source = DINO.tiny()
    batch = batch_of(source)
    before = [p.detach().clone() for p in (*learner.average.parameters(), *learner.average_head.parameters())]
    learner.update(batch._replace(clock=Clock(*[torch.tensor(fraction, dtype=torch.float64)] * 3)))
    sources = [*learner.network.parameters(), *learner.head.parameters()]
    targets = [*learner.average.parameters(), *learner.average_head.parameters()]
    for old, mine, theirs in zip(before, targets, sources, strict=True):
        torch.testing.assert_close(mine, keep * old + (1.0 - keep) * theirs)
        assert not mine.requires_grad


def test_views_are_two_and_the_local_ones():
    learner, source = DINO.tiny()
    assert learner.views == source.views == 3
    assert (learner.local.smallest, learner.local.largest) == (0.05, 0.4)
    assert DINOConfig().local_views == 2


def test_cosines_see_no_lengths():
    head, z = Cosines(5, 7).double(), random(4, 5)
    expected = functional.cosine_similarity(z[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(3.0 * z), expected)


def test_the_centre_stays_float32_where_products_are_bfloat16():
    learner, source = DINO.tiny()
    learner.config = replace(learner.config, center_momentum=0.5)
    for _ in run(learner, source, 2, compile="eager", precision="bfloat16"):
        pass
    assert learner.center.dtype == torch.float32
    assert learner.center.abs().max() > 0
