"""BYOL: its rule by hand, its average, and features that did not collapse."""

import pytest
import torch
from torch import nn

from agentlib.core import Clock
from agentlib.core.recipe import Problem
from agentlib.data.batches import Examples
from agentlib.engine import run
from agentlib.learners.self_supervised.byol import BYOL, prediction_errors
from agentlib.runs.plan import job_of


def test_the_error_by_hand():
    prediction = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    expected = torch.tensor([0.0, 2.0, 4.0, 2.0 - 2.0**0.5])
    torch.testing.assert_close(prediction_errors(prediction, target), expected)
    unit = nn.functional.normalize(prediction), nn.functional.normalize(target)
    torch.testing.assert_close(prediction_errors(prediction, target), (unit[0] - unit[1]).square().sum(1))


def batch_of(source):
    source.advance()
    source.fill_ticks(source.clock)
    return source.sample()


def test_each_view_predicts_the_average_of_the_other():
    learner, source = BYOL.tiny()
    batch = batch_of(source)
    first, second = batch.x
    target = learner.average.network
    one = prediction_errors(learner.predictor(learner.network(first)), target(second))
    other = prediction_errors(learner.predictor(learner.network(second)), target(first))
    update = learner.update(batch)
    torch.testing.assert_close(update.per_sample, (one + other).detach() / 2)
    torch.testing.assert_close(update.metrics["loss"], (one + other).detach().mean() / 2)


def test_the_average_has_no_gradient_and_keeps_its_share():
    learner, source = BYOL.tiny()
    before = [p.detach().clone() for p in learner.average.parameters()]
    learner.update(batch_of(source))
    for old, mine, theirs in zip(before, learner.average.parameters(), learner.network.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.95 * old + 0.05 * theirs)
        assert not mine.requires_grad
    inside = {id(p) for p in learner.average.parameters()}
    assert not inside & {id(p) for p in learner.step.parameter_list}
    assert not inside & {id(p) for p in learner.predictor.parameters()}


def test_a_collapse_has_no_loss_and_no_spread():
    learner, source = BYOL.tiny()
    batch = batch_of(source)
    same = Examples(batch.x[:1, :1].expand_as(batch.x).clone(), None, batch.index, Clock(*batch.clock))
    assert float(learner.update(same).metrics["spread"]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.slow
def test_the_predictor_keeps_features_apart():
    """On digits features stay apart; with the identity as predictor they fall together (Grill et al., table 5)."""
    spread, loss = {}, {}
    for name in ("with", "without"):
        job = job_of("byol", Problem(data="digits", steps=300))
        if name == "without":
            job.learner.predictor = nn.Identity()
        *_, (_, update) = run(job.learner, job.source, 300, compile=False)
        spread[name], loss[name] = float(update.metrics["spread"]), float(update.metrics["loss"])
    assert spread["without"] < 0.5 * spread["with"]
    assert loss["without"] < loss["with"]
