"""Operations by number equal those by hand; policies are the published ones; mixtures are within their sets."""

from typing import Any

import pytest
import torch

from agentlib.data import colours
from agentlib.data.augmentation import rotate
from agentlib.data.auto_augment import BLENDED, MIXED, OPERATIONS, AugMix, AutoAugment, operate, published, search


def images(n=4, channels=3, side=12, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def done(name, x, size):
    return operate(x, torch.full((len(x),), OPERATIONS.index(name)), torch.full((len(x),), size))


def test_each_operation_on_its_images():
    """A batch of all operations at once has for each image what the operation gives alone."""
    x, size = images(len(OPERATIONS)), torch.linspace(-0.9, 0.9, len(OPERATIONS))
    found = operate(x, torch.arange(len(OPERATIONS)), size)
    for i, name in enumerate(OPERATIONS):
        torch.testing.assert_close(found[i], done(name, x[i : i + 1], float(size[i]))[0], atol=1e-5, rtol=0)


def test_sizes():
    x = images()
    torch.testing.assert_close(done("rotate", x, 0.5), rotate(x, torch.full((4,), 15.0)), atol=1e-5, rtol=0)
    torch.testing.assert_close(done("brightness", x, -1.0), 0.1 * x, atol=1e-6, rtol=0)
    torch.testing.assert_close(done("solarize", x, 1.0), 1.0 - x)
    torch.testing.assert_close(done("posterize", x, -1.0), colours.posterize(x, torch.full((4,), 4.0)))
    torch.testing.assert_close(done("invert", x, 0.0), 1.0 - x)
    moved = done("translate_x", x, 331 / 150 * 3 / 12)  # by three of twelve pixels
    torch.testing.assert_close(moved[..., 3:], x[..., :-3], atol=1e-5, rtol=0)
    assert float(moved[..., :3].abs().max()) < 1e-5
    sheared = done("shear_y", x, 1 / 0.3 / 6)  # 3.5 columns from the centre, by 7 / 12 of a pixel
    torch.testing.assert_close(sheared[:, :, 2:-2, 9], (x[:, :, 2:-2, 9] * 5 + 7 * x[:, :, 3:-1, 9]) / 12)


def test_size_zero_changes_nothing():
    x = (images() * 255).floor() / 255
    for name in (*OPERATIONS[:5], *BLENDED, "posterize"):
        torch.testing.assert_close(done(name, x, 0.0), x, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_policies_are_the_published_ones(policy):
    pytest.importorskip("kornia")
    from kornia.augmentation.auto.autoaugment import autoaugment

    theirs = getattr(autoaugment, f"{policy}_policy")
    assert len(published(policy)) == len(theirs) == 25
    for pair, other in zip(published(policy), theirs, strict=True):
        for (name, probability, size), (their_name, their_probability, their_size) in zip(pair, other, strict=True):
            assert name == {"color": "colour"}.get(their_name, their_name)
            assert probability == their_probability
            assert size == pytest.approx((their_size or 0) / 9) or name == "invert"


def test_a_policy_does_its_operations_as_often_as_it_says(monkeypatch):
    """cifar10's first pair inverts a tenth of its images; of 25 pairs three invert: .1, 0 and .1."""
    policy = AutoAugment("cifar10")
    policy.table[:, :, 0] = torch.where(policy.table[:, :, 0] == OPERATIONS.index("invert"), policy.table[:, :, 0], 4.0)
    policy.table[:, :, 2] = 0.0  # nothing else changes anything
    x = torch.full((40_000, 1, 1, 1), 0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        share = float((policy(x) > 0.5).float().mean())
    assert share == pytest.approx(0.2 / 25, abs=0.002)


def test_a_search_joins_the_best_policies():
    def inversions(pairs):
        tried.append(pairs)
        return sum(name == "invert" for pair in pairs for name, *_ in pair)

    tried: list[Any] = []
    found = search(inversions, trials=40, kept=2, pairs=3, seed=0)
    assert [len(policy) for policy in tried] == [3] * 40
    assert len(found) == 6
    scores = sorted((inversions(policy) for policy in tried[:40]), reverse=True)
    assert [inversions(found[:3]), inversions(found[3:])] == scores[:2]
    assert {round(10 * share, 9) % 1 for pair in found for _, share, _ in pair} == {0.0}
    assert search(inversions, trials=40, kept=2, pairs=3, seed=0) == found != search(inversions, trials=40, kept=2)
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(AutoAugment([[("invert", 1.0, 0.0), ("invert", 0.0, 0.0)]])(images), 1.0 - images)
    with pytest.raises(ValueError, match="of 3 policies that are tried at most as many are kept, not 5"):
        search(inversions, trials=3)
    with pytest.raises(ValueError, match="unknown operation 'twist'"):
        AutoAugment([[("twist", 1.0, 0.0), ("invert", 0.0, 0.0)]])


def test_mixtures_keep_to_the_range_and_average_chains():
    assert not {"invert", *BLENDED} & set(MIXED)
    x = images(32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = AugMix()(x)
        assert torch.equal(AugMix(severity=3.0)(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0 + 1e-6
    assert 0.01 < float((found - x).abs().mean()) < 0.25
