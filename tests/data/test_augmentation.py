"""Changes by given amounts equal loops and kornia; random ones are drawn per image, and compile."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agentlib.data.augmentation import (
    Augmentation,
    RandomCrop,
    RandomFlip,
    RandomLight,
    RandomNoise,
    RandomRotation,
    RandomShift,
    crop,
    flip,
    rotate,
    shift,
)
from agentlib.engine.compiled import compiler_found

ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": RandomShift(2),
    "shift_zero": RandomShift(2, "zero"),
    "rotation": RandomRotation(30.0),
    "flip": RandomFlip(),
    "crop": RandomCrop(0.3),
    "light": RandomLight(0.3, 0.3),
    "noise": RandomNoise(0.1),
    "several": Augmentation(RandomShift(1), RandomRotation(15.0), RandomNoise(0.1)),
}


def images(n=6, channels=2, height=5, width=7, seed=0):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("padding", ["edge", "zero"])
def test_shift_equals_a_loop(padding):
    x = images()
    rows, columns = torch.tensor([0, 1, -2, 3, 0, -7]), torch.tensor([0, -1, 2, 0, 9, 1])
    moved = shift(x, rows, columns, padding)
    height, width = x.shape[-2:]
    for b in range(len(x)):
        for i in range(height):
            for j in range(width):
                old_i, old_j = i - int(rows[b]), j - int(columns[b])
                is_inside = 0 <= old_i < height and 0 <= old_j < width
                expected = x[b, :, min(max(old_i, 0), height - 1), min(max(old_j, 0), width - 1)]
                if padding == "zero" and not is_inside:
                    expected = torch.zeros_like(expected)
                assert torch.equal(moved[b, :, i, j], expected)


def test_bytes_stay_bytes_where_pixels_only_move():
    frames = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8)
    for change in (RandomShift(2), RandomShift(2, "zero"), RandomFlip()):
        assert change(frames).dtype == torch.uint8
    assert torch.equal(Augmentation(RandomFlip(1.0))(frames), frames.flip(-1) / 255)


def test_flipped_twice_is_the_same():
    x, chosen = images(), torch.tensor([True, False, True, True, False, False])
    assert torch.equal(flip(flip(x, chosen), chosen), x)
    assert torch.equal(flip(x, chosen)[~chosen], x[~chosen])
    assert torch.equal(flip(x, chosen)[chosen], x[chosen].flip(-1))


def test_rotations_of_a_quarter_are_exact():
    x = images(height=6, width=6)
    for quarters in range(4):
        turned = rotate(x, torch.full((len(x),), 90.0 * quarters))
        torch.testing.assert_close(turned, x.rot90(quarters, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 7), (5, 9)])
def test_rotation_equals_kornia(shape):
    import kornia  # takes a second

    x, degrees = images(height=shape[0], width=shape[1]), torch.tensor([-40.0, -15.0, 0.0, 3.0, 15.0, 80.0])
    theirs = kornia.geometry.rotate(x, degrees, align_corners=True)
    torch.testing.assert_close(rotate(x, degrees), theirs, atol=1e-5, rtol=0)


def test_crop():
    x = images(height=8, width=8)
    whole = torch.zeros(len(x)), torch.zeros(len(x)), torch.ones(len(x)), torch.ones(len(x))
    torch.testing.assert_close(crop(x, *whole), x, atol=1e-6, rtol=0)
    # The lower right quarter, enlarged: between four pixels of the old lies the mean of four of the new.
    half = torch.full((len(x),), 0.5)
    enlarged = crop(x, half, half, half, half)
    wanted = torch.nn.functional.interpolate(x[:, :, 4:, 4:], size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1], atol=1e-6, rtol=0)


def test_light_and_noise_have_the_sizes_that_they_say():
    x = images(400, 1, 6, 6)
    lit = RandomLight(0.3, 0.5)(x)
    change = lit.mean((1, 2, 3)) - x.mean((1, 2, 3))
    assert 0.25 < float(change.abs().max()) <= 0.3
    spread = lit.std((1, 2, 3)) / x.std((1, 2, 3))
    assert float(spread.min()) >= 0.5 - 1e-5
    assert float(spread.max()) <= 1.5 + 1e-5
    assert float((RandomNoise(0.1)(x) - x).std()) == pytest.approx(0.1, rel=0.05)


def test_crops_keep_the_area_that_they_say():
    """Of a ramp from 0 to 1, a box keeps a stretch as long as it is wide."""
    ramp = ((torch.arange(64) + 0.5) / 64).expand(500, 1, 64, 64)
    across = RandomCrop(0.25, 1.0)(ramp)
    width = (across[:, 0, 0].amax(1) - across[:, 0, 0].amin(1)) * 64 / 63
    assert float(width.min()) > 0.48
    assert float(width.min()) < 0.6
    assert float(width.max()) <= 1.01


@pytest.mark.parametrize("name", ALL)
def test_drawn_per_image_from_the_default_generator(name):
    x = images(1).expand(64, -1, -1, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = ALL[name](x)
        torch.manual_seed(3)
        again = ALL[name](x)
        torch.manual_seed(4)
        other = ALL[name](x)
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.flatten(1).unique(dim=0)) > 1, "all images were changed alike"


def test_no_images():
    with pytest.raises(ValueError, match=r"images are a batch \(B, C, H, W\), not \(3, 64\)"):
        Augmentation(RandomNoise(0.1))(torch.zeros(3, 64))


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_all_compile_into_one_graph():
    def changed(x: Tensor) -> list[Tensor]:
        return [change(x) for change in ALL.values()]

    compiled = torch.compile(changed, fullgraph=True, dynamic=False, options={"fallback_random": True})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = changed(images())
        torch.manual_seed(0)
        found = compiled(images())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
