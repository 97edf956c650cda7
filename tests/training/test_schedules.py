"""Schedules at the start, in the middle, at the end and beyond; numbers and tensors agree."""

import pytest
import torch

from agentlib.backbones import Clock, Cosine, Linear, at

CASES = [
    (Linear(1.0, 0.0), {0.0: 1.0, 0.5: 0.5, 1.0: 0.0, 1.5: 0.0}),
    (Linear(0.4, 1.0), {0.0: 0.4, 0.5: 0.7, 1.0: 1.0, 2.0: 1.0}),
    (Linear(1.0, 0.04, over=0.16), {0.0: 1.0, 0.08: 0.52, 0.16: 0.04, 0.5: 0.04, 1.0: 0.04}),
    (Linear(1.0, 0.1, over=0.0), {0.0: 0.1, 1.0: 0.1}),
    (Cosine(1.0), {0.0: 1.0, 0.25: 0.5 + 0.5**1.5, 0.5: 0.5, 1.0: 0.0, 3.0: 0.0}),
    (Cosine(0.996, 1.0), {0.0: 0.996, 0.5: 0.998, 1.0: 1.0}),
    (Cosine(2.0, 1.0, over=0.5), {0.0: 2.0, 0.25: 1.5, 0.5: 1.0, 1.0: 1.0}),
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
