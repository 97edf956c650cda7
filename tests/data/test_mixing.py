"""Shares, labels and areas of mixtures are those of their formulas."""

import pytest
import torch

from agentlib.data.mixing import PixMix, RandomCutout, beta_shares, box, cutmix, fractals, mixup


def images(n=6, channels=3, side=10, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_shares_are_of_a_beta_distribution(alpha):
    stats = pytest.importorskip("scipy.stats")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        share = beta_shares(alpha, 20_000)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    low = share[share < 0.5].double().numpy()  # above, float32 has no room next to 1
    assert stats.kstest(low, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-3


def test_mixup_by_hand():
    x, share = images(), torch.tensor([0.0, 0.25, 1.0, 0.5, 0.9, 0.1])
    found = mixup(x, share)
    for i in range(6):
        torch.testing.assert_close(found[i], share[i] * x[i] + (1 - share[i]) * x[i - 1])


def test_a_box_is_clipped():
    cut = box(
        torch.tensor([0, 5, 9]), torch.tensor([0, 5, 5]), torch.tensor([4, 5, 6]), torch.tensor([4, 2, 10]), (10, 10)
    )
    assert cut.sum((1, 2)).tolist() == [2 * 2, 5 * 2, 4 * 10]  # half is beyond the border
    assert cut[0, :2, :2].all()
    assert cut[1, 3:8, 4:6].all()


def test_the_share_of_cutmix_is_the_area_that_is_left():
    x, share = images(400, side=16), torch.linspace(0, 1, 400)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found, left = cutmix(x, share)
    same = (found == x).all(1)
    torch.testing.assert_close(same.float().mean((1, 2)), left)
    assert (found == torch.where(same[:, None], x, x.roll(1, 0))).all()
    assert (left >= share - 1e-6).all()  # boxes are only made smaller
    assert float(left.mean() - share.mean()) < 0.35


def test_cutout():
    x = torch.ones(300, 1, 12, 12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = (RandomCutout(6)(x) == 0).sum((1, 2, 3))
    assert int(hidden.max()) == 36
    assert int(hidden.min()) == 9  # three quarters beyond a corner
    for side in (1, 3):
        hidden = (RandomCutout(side)(x) == 0).sum((1, 2, 3))
        assert int(hidden.max()) == side**2


def test_fractals_differ_and_have_structure():
    pictures = fractals()
    assert pictures.shape == (32, 3, 64, 64)
    assert float(pictures.amax((1, 2, 3)).min()) == 1.0
    covered = (pictures.amax(1) > 0).float().mean((1, 2))
    assert float(covered.min()) > 0.01
    assert len(pictures.flatten(1).unique(dim=0)) == 32


@pytest.mark.parametrize("channels", [1, 3])
def test_pixmix_stays_in_range(channels):
    x = images(64, channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = PixMix()(x)
        torch.manual_seed(0)
        assert torch.equal(PixMix(rounds=1)(x).isnan(), torch.zeros_like(x, dtype=torch.bool))
    assert found.shape == x.shape
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    unchanged = (found - x).abs().amax((1, 2, 3)) < 1e-6
    assert 0 < int(unchanged.sum()) < 16  # no round for a fifth, and half of these without a first change
