"""What domains are compared by, against definitions and planted values."""

import pytest
import torch
from torch.nn import functional

from agentlib.learners.domains.rules import (
    coral,
    covariances,
    irm_penalty,
    masks_of,
    means,
    mmd,
    reversed_gradient,
    tilted,
    turned_apart,
)


def test_a_reversed_gradient():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.equal(reversed_gradient(x, 0.7), x)
    (gradient,) = torch.autograd.grad((reversed_gradient(x, 0.7) * torch.arange(15.0).view(5, 3)).sum(), x)
    torch.testing.assert_close(gradient, -0.7 * torch.arange(15.0).view(5, 3))


def test_irm_is_the_slope_of_a_dummy_classifier():
    """The product of the derivatives at w = 1 of the risks of two halves, by autograd, in each domain."""
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(12, 3, generator=generator).double(), torch.randint(3, (12,), generator=generator)
    domain = torch.tensor([0, 1] * 6)
    found = irm_penalty(logits, y, masks_of(domain, 2).double())
    for number in range(2):
        slopes = []
        for half in (slice(0, 6), slice(6, 12)):
            chosen = domain[half] == number
            w = torch.ones((), dtype=torch.float64, requires_grad=True)
            risk = functional.cross_entropy(w * logits[half][chosen], y[half][chosen])
            slopes.append(torch.autograd.grad(risk, w)[0])
        assert float(found[number]) == pytest.approx(float(slopes[0] * slopes[1]))


def test_planted_covariances():
    """Of features with covariances 1 and 4 times the unit matrix the loss is 9 d / 4 d^2; of equal ones it is 0."""
    generator, d = torch.Generator().manual_seed(0), 4
    x = torch.randn(60, d, generator=generator).double()
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / 59), x.T, upper=False).T
    masks = masks_of(torch.tensor([0] * 60 + [1] * 60), 2).double()
    features = torch.cat([white, 2.0 * white + 3.0])
    found = covariances(features, masks)
    torch.testing.assert_close(found[1], 4.0 * torch.eye(d).double())
    torch.testing.assert_close(found[0], x.T.new_tensor(torch.cov(white.T).tolist()))
    assert float(coral(features, masks)) == pytest.approx(9 * d / (4 * d**2))
    assert float(coral(torch.cat([white, white + 5.0]), masks)) == pytest.approx(0.0, abs=1e-12)  # means are not seen
    three = masks_of(torch.tensor([0] * 60 + [1] * 60 + [2] * 60), 3).double()
    both = torch.cat([white, white, 2.0 * white])
    assert float(coral(both, three)) == pytest.approx(9 * d / (4 * d**2) * 2 / 3)  # two of three pairs differ


def test_mmd():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator), torch.randn(40, 3, generator=generator)
    masks = masks_of(torch.tensor([0] * 50 + [1] * 40), 2)
    same, moved = float(mmd(torch.cat([x, y]), masks)), float(mmd(torch.cat([x, y + 2.0]), masks))
    assert 0.0 <= same < 0.05 < moved
    assert float(mmd(torch.cat([x, x]), masks_of(torch.tensor([0] * 50 + [1] * 50), 2))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rule", [coral, mmd])
def test_domains_that_a_batch_lacks_do_not_count(rule):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 3, generator=generator) * torch.tensor([1.0] * 10 + [3.0] * 10)[:, None]
    domain = torch.tensor([0] * 10 + [2] * 10)
    two, four = rule(features, masks_of(domain // 2, 2)), rule(features, masks_of(domain, 4))
    assert float(four) == pytest.approx(float(two))
    assert float(rule(features, masks_of(torch.zeros(20), 4))) == 0.0


def test_two_groups_in_the_closed_form():
    """Losses theta^2 and (theta - 1)^2, nine to one: the mean is least at .1, the worst of both at .5, q = (.5, .5)."""
    theta, q = torch.tensor(0.1), torch.tensor([0.5, 0.5])
    for _ in range(4_000):
        losses = torch.stack([theta.square(), (theta - 1.0).square()])
        q = tilted(q, losses, 0.02)
        theta = theta - 0.02 * (q[0] * 2 * theta + q[1] * 2 * (theta - 1.0))
    assert float(theta) == pytest.approx(0.5, abs=0.01)
    assert q.tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    once = tilted(torch.tensor([0.25, 0.75]), torch.tensor([2.0, 1.0]), 0.5)
    weights = torch.tensor([0.25, 0.75]) * torch.tensor([1.0, 0.5]).exp()
    torch.testing.assert_close(once, weights / weights.sum())


def test_means_of_groups():
    masks = masks_of(torch.tensor([0, 2, 0, 2]), 3)
    assert means(torch.tensor([1.0, 2.0, 3.0, 6.0]), masks).tolist() == [2.0, 0.0, 4.0]


def test_a_quarter_of_the_images_is_turned_by_each():
    images = torch.rand(10, 1, 4, 4)
    turned, turn = turned_apart(images)
    assert turn.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    for image, found, times in zip(images, turned, turn.tolist(), strict=True):
        assert torch.equal(found, image.rot90(times, (1, 2)))
