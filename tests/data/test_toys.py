"""Generated data sets have the truth that they claim."""

import math

import pytest
import torch

from agentlib.data import DATASETS, dataset
from agentlib.data.toys import COLOURS, SHAPES, TOYS, eight_gaussians, shapes, swiss_roll, two_moons


@pytest.mark.parametrize("name", TOYS)
def test_the_same_seed_gives_the_same_data(name):
    make = DATASETS[name]
    before = torch.get_rng_state()
    first, again, other = TOYS[name](300), TOYS[name](300), TOYS[name](300, seed=1)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(before, torch.get_rng_state())
    assert (make.__doc__ or "").splitlines()[0]


def test_gaussians_are_round_and_equally_frequent():
    data = eight_gaussians(40_000)
    assert data.y is not None
    for label in range(8):
        points = data.x[data.y == label]
        assert len(points) == pytest.approx(5_000, rel=0.06)
        angle = label * math.pi / 4
        center = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)])
        torch.testing.assert_close(points.mean(0), center, atol=0.01, rtol=0.0)
        torch.testing.assert_close(points.T.cov(), 0.01 * torch.eye(2), atol=1e-3, rtol=0.0)
    grid = dataset("25gaussians")
    assert grid.y is not None
    assert len(torch.stack([grid.x[grid.y == label].mean(0).round() for label in range(25)]).unique(dim=0)) == 25


def test_roll_and_moons():
    roll = swiss_roll(20_000).x
    radius = roll.norm(dim=1)
    assert float(radius.min()) > 1.5 * math.pi / 7.5 - 0.3
    assert float(radius.max()) < 4.5 * math.pi / 7.5 + 0.3
    moons = two_moons(20_000)
    assert moons.y is not None
    for label, center in enumerate(([-0.5, -0.25], [0.5, 0.25])):
        radius = (moons.x[moons.y == label] - torch.tensor(center)).norm(dim=1)
        assert float((radius - 1).abs().quantile(0.99)) < 0.3


def test_pictures_show_the_shape_and_colour_of_their_class():
    data = shapes(400)
    assert data.y is not None
    assert data.x.shape == (400, 3, 16, 16)
    assert data.classes == tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    for picture, label in zip(data.x, data.y, strict=True):
        lit = picture.amax(0) > 0
        assert 10 <= int(lit.sum()) < 150
        colour = torch.tensor(list(COLOURS.values())[int(label) // len(SHAPES)])
        torch.testing.assert_close(picture[:, lit], colour[:, None].expand(3, int(lit.sum())))
    filled = {}
    for k, shape in enumerate(SHAPES):  # the share of its bounding box that a shape fills
        pictures = [p.amax(0) > 0 for p, y in zip(data.x, data.y, strict=True) if int(y) % len(SHAPES) == k]
        boxes = [lit[lit.any(1)][:, lit.any(0)].float().mean() for lit in pictures]
        filled[shape] = float(torch.stack(boxes).mean())
    assert filled["square"] > 0.99
    assert filled["circle"] == pytest.approx(math.pi / 4, abs=0.06)
    assert filled["triangle"] == pytest.approx(0.5, abs=0.12)
    assert filled["cross"] == pytest.approx(0.51, abs=0.15)
