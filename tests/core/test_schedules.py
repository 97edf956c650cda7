"""Schedules at the start, in the middle, at the end and beyond; numbers and tensors agree."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from agentlib.backbones import adam
from agentlib.core import Clock, Cosine, InverseSquareRoot, Linear, Schedule, Step, Warmup, at, scaled_to_batch
from agentlib.core.config import config_from_json, config_to_json

CASES = [
    (Linear(1.0, 0.0), {0.0: 1.0, 0.5: 0.5, 1.0: 0.0, 1.5: 0.0}),
    (Linear(0.4, 1.0), {0.0: 0.4, 0.5: 0.7, 1.0: 1.0, 2.0: 1.0}),
    (Linear(1.0, 0.04, over=0.16), {0.0: 1.0, 0.08: 0.52, 0.16: 0.04, 0.5: 0.04, 1.0: 0.04}),
    (Linear(1.0, 0.1, over=0.0), {0.0: 0.1, 1.0: 0.1}),
    (Cosine(1.0), {0.0: 1.0, 0.25: 0.5 + 0.5**1.5, 0.5: 0.5, 1.0: 0.0, 3.0: 0.0}),
    (Cosine(0.996, 1.0), {0.0: 0.996, 0.5: 0.998, 1.0: 1.0}),
    (Cosine(2.0, 1.0, over=0.5), {0.0: 2.0, 0.25: 1.5, 0.5: 1.0, 1.0: 1.0}),
    (Warmup(0.3, over=0.2), {0.0: 0.0, 0.1: 0.15, 0.2: 0.3, 1.0: 0.3}),
    (Warmup(Linear(1.0, 0.0), updates=50), {0.0: 0.02, 0.25: 0.75 * 26 / 50, 0.5: 0.5, 1.0: 0.0}),
    (Warmup(Warmup(1.0, over=0.5), updates=50), {0.0: 0.0, 0.25: 0.5 * 26 / 50, 1.0: 1.0}),
    (InverseSquareRoot(0.1, 25), {0.0: 0.1 / 25, 0.12: 0.1 * 13 / 25, 0.24: 0.1, 0.99: 0.05}),
    (0.3, {0.0: 0.3, 1.0: 0.3}),
    (lambda clock: clock.updates * 2, {0.0: 0.0, 1.0: 200.0}),
]


@pytest.mark.parametrize(("schedule", "expected"), CASES, ids=[f"case{i}" for i in range(len(CASES))])
def test_values(schedule, expected):
    for fraction, value in expected.items():
        clock = Clock(round(100 * fraction), round(400 * fraction), fraction)
        assert at(schedule, clock) == pytest.approx(value, abs=1e-12)
        ticks = torch.tensor(clock, dtype=torch.float64)
        found = at(schedule, Clock(*ticks.unbind()))
        assert float(found) == pytest.approx(value, abs=1e-12)
        if callable(schedule) and getattr(schedule, "over", 1.0) > 0.0:
            assert found.dtype == torch.float64
            assert found.shape == ()


def test_equal_and_hashable():
    assert Linear(1, 0) == Linear(1.0, 0.0)
    assert len({Linear(1, 0), Linear(1, 0), Cosine(1, 0)}) == 2


TORCHS: dict[str, tuple[Schedule, Any]] = {
    "linear": (Linear(0.1, 0.0), lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, n)),
    "linear by lambda": (Linear(0.1, 0.0), lambda o, n: lr_scheduler.LambdaLR(o, lambda i: 1.0 - i / n)),
    "cosine": (Cosine(0.1, 0.01), lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, 0.01)),
    "constant": (0.1, lambda o, n: lr_scheduler.ConstantLR(o, 1.0)),
    "warm-up": (
        Warmup(Cosine(0.1), updates=10),
        lambda o, n: lr_scheduler.ChainedScheduler(
            [lr_scheduler.CosineAnnealingLR(o, n), lr_scheduler.LinearLR(o, 0.1, 1.0, 9)]
        ),
    ),
    "inverse square root": (
        InverseSquareRoot((512 * 10) ** -0.5, 10),
        lambda o, n: lr_scheduler.LambdaLR(o, lambda i: 10 * 512**-0.5 * min((i + 1) ** -0.5, (i + 1) * 10**-1.5)),
    ),
}
"""With a rate of 0.1 and n updates in all."""


@pytest.mark.parametrize("name", TORCHS)
def test_equals_torchs_schedulers(name):
    """At the start, in the middle, at the end and everywhere else."""
    schedule, make = TORCHS[name]
    n = 40
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(optimizer, n)
    for i in range(n + 1):
        assert at(schedule, Clock(i, i, i / n)) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_step_follows_a_warm_up():
    """The first step of Adam has the size of the rate."""
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    step = Step(parameter, adam(Warmup(0.1, updates=4), eps=0.0))
    for i in range(6):
        before = parameter.detach().clone()
        step(parameter.sum(), Clock(*torch.tensor([i, i, i / 6], dtype=torch.float64)))
        torch.testing.assert_close(before - parameter.detach(), torch.full_like(before, 0.1 * min((i + 1) / 4, 1.0)))


@dataclass(frozen=True, kw_only=True)
class Config:
    learning_rate: Schedule = 0.1


@pytest.mark.parametrize(
    "schedule",
    [Warmup(Cosine(0.1, 0.01), updates=100), Warmup(0.3, over=0.1), InverseSquareRoot(0.1), Linear(1.0, 0.0)],
)
def test_json(schedule):
    config = Config(learning_rate=schedule)
    assert config_from_json(Config, json.loads(json.dumps(config_to_json(config)))) == config


def test_the_linear_rule():
    assert scaled_to_batch(0.1, 1024, 256) == pytest.approx(0.4)
    assert scaled_to_batch(0.1, 64, 256) == pytest.approx(0.025)


@pytest.mark.parametrize("arguments", [{}, {"updates": 5, "over": 0.1}, {"updates": -1}])
def test_warm_up_over_updates_or_a_share_of_the_run(arguments):
    with pytest.raises(ValueError, match="takes updates > 0, or over > 0"):
        Warmup(0.1, **arguments)


def test_other_errors():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        InverseSquareRoot(0.1, 0)
    with pytest.raises(ValueError, match=r"Warmup.then is 'fast', but must be a number or a schedule"):
        config_from_json(Config, {"learning_rate": {"schedule": "Warmup", "then": "fast"}})
