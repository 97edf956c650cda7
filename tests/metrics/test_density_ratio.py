"""Ratios of two Gaussians are those of the closed form, and weighted risks are the target's."""

import pytest
import torch

from agentlib.metrics.density_ratio import (
    effective_number,
    gaussian_ratio,
    importance_weights,
    logistic_ratio,
    ulsif_ratio,
)

SHIFT = torch.tensor([0.8, -0.4])


def points(n=4_000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator), torch.randn(n, 2, generator=generator) + SHIFT


def exact(x):
    """N(m, 1) over N(0, 1) is exp(x.m - |m|^2 / 2)."""
    return (x @ SHIFT - 0.5 * SHIFT.square().sum()).exp()


@pytest.mark.parametrize(("ratio", "error"), [(gaussian_ratio, 0.1), (logistic_ratio, 0.1), (ulsif_ratio, 0.35)])
def test_gaussians_moved(ratio, error):
    source, target = points()
    found, truth = ratio(source, target, source), exact(source)
    assert float((found - truth).abs().mean() / truth.mean()) < error
    assert float(found.mean()) == pytest.approx(1.0, abs=0.1)


def test_unequal_numbers_do_not_matter():
    source, target = points()
    few = logistic_ratio(source, target[:1_000], source)
    assert float(few.mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("ratio", [gaussian_ratio, logistic_ratio, ulsif_ratio])
def test_a_weighted_risk_is_the_targets(ratio):
    """Of the loss |x - (1, 0)|^2; on the source it is a third larger."""
    source, target = points()

    def losses(x):
        return (x - torch.tensor([1.0, 0.0])).square().sum(1)

    weights = ratio(source, target, source)
    risk = float(losses(target).mean())
    assert float((weights * losses(source)).mean() / weights.mean()) == pytest.approx(risk, rel=0.1)
    assert float(losses(source).mean()) > 1.25 * risk


def test_effective_number():
    assert effective_number(torch.full((50,), 0.3)) == pytest.approx(50)
    assert effective_number(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)


def test_weights_have_a_mean_of_one_or_are_refused():
    source, target = points(500)
    weights = importance_weights(source, target, "gaussian")
    assert float(weights.mean()) == pytest.approx(1.0)
    found = gaussian_ratio(source, target, source)
    torch.testing.assert_close(weights / weights[0], found / found[0])
    with pytest.raises(ValueError, match="too far off for weights of the sources by gaussian"):
        importance_weights(source, target + 1e3, "gaussian")
