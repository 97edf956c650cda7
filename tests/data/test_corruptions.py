"""Corruptions have the means and variances of their formulas, grow with the severity, and JPEG is Pillow's."""

import io

import numpy as np
import pytest
import torch

from agentlib.data.corruptions import CORRUPTIONS, corrupt


def pictures(n=6, channels=3, side=32, seed=0):
    """Smooth pictures between 0.2 and 0.8."""
    coarse = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def flat(value=0.5, n=40, side=32):
    return torch.full((n, 1, side, side), value)


def test_there_are_fifteen_with_five_severities():
    assert len(CORRUPTIONS) == 15
    assert all(len(amounts) == 5 for _, amounts in CORRUPTIONS.values())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_is_repeatable_in_range_and_grows(kind):
    x = pictures()
    found = [corrupt(x, kind, severity) for severity in (1, 3, 5)]
    assert all(one.shape == x.shape and 0.0 <= float(one.min()) <= float(one.max()) <= 1.0 for one in found)
    assert torch.equal(found[1], corrupt(x, kind, 3, seed=0))
    sizes = [float((one - x).square().mean()) for one in found]
    assert 0.0 < sizes[0] < sizes[1], sizes
    assert sizes[2] > (0.95 if kind == "fog" else 1.0) * sizes[1], sizes  # its last ones are rougher, not thicker
    shape = corrupt((255 * pictures(1, 1, 28)).to(torch.uint8), kind, 2).shape
    assert shape == (1, 1, 28, 28)


def test_noise_has_its_variance():
    """Of Gaussian noise s^2; of photons x / c; of salt and pepper, a share p is 0 or 1: mean 0.5, variance p / 4."""
    noise = corrupt(flat(), "gaussian_noise", 1)
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02)
    shot = corrupt(flat(0.3), "shot_noise", 2)
    assert float(shot.mean()) == pytest.approx(0.3, abs=0.003)
    assert float(shot.var()) == pytest.approx(0.3 / 25, rel=0.03)
    impulse = corrupt(flat(), "impulse_noise", 4)
    assert float(impulse.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(impulse.var()) == pytest.approx(0.17 / 4, rel=0.03)


def test_light():
    x = pictures()
    torch.testing.assert_close(corrupt(x, "brightness", 2), (x + 0.2).clamp(max=1.0))
    contrast = corrupt(x, "contrast", 4)
    torch.testing.assert_close(contrast.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(contrast.std((2, 3)), 0.1 * x.std((2, 3)))
    fog = corrupt(flat(), "fog", 3)  # (0.5 + 2.5 c) 0.5 / 3 for a cloud c between 0 and 1
    assert float(fog.amin()) == pytest.approx(0.25 / 3, abs=1e-5)
    assert float(fog.amax()) == pytest.approx(0.5, abs=1e-5)
    frost = corrupt(flat(), "frost", 2)
    assert float(frost.min()) >= 0.4 - 1e-6
    assert 0.45 < float(frost.mean()) < 1.0
    snow = corrupt(flat(), "snow", 3)
    assert float(snow.min()) == pytest.approx(0.6 * 0.5 + 0.4 * 0.75, abs=1e-6)


@pytest.mark.parametrize(
    "kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]
)
def test_blurs_keep_the_mean(kind):
    """A flat picture stays as it is; of noise, the mean stays and the variance falls where pixels are averaged."""
    torch.testing.assert_close(corrupt(flat(0.3), kind, 5), flat(0.3), atol=1e-5, rtol=0)
    x = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = corrupt(x, kind, 3)
    assert float(found.mean()) == pytest.approx(float(x.mean()), abs=0.02)
    assert float(found.var()) < 0.8 * float(x.var())


def test_defocus_is_the_mean_of_a_disk():
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1.0
    found = corrupt(point, "defocus_blur", 5)[0, 0]  # radius 2.475
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(found, found.T)
    assert float(found[16, 16]) == pytest.approx(1 / (torch.pi * 2.475**2), rel=0.1)
    assert float(found[16, 20]) == 0.0


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    image_of = pytest.importorskip("PIL.Image")
    x = (255 * pictures(3, channels, 40)).round() / 255
    found = corrupt(x, "jpeg_compression", 4)
    for one, other in zip(x, found, strict=True):
        pixels = (255 * one).round().to(torch.uint8).movedim(0, -1).numpy()
        file = io.BytesIO()
        image_of.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=10, subsampling=0)
        wanted = np.asarray(image_of.open(file)).reshape(40, 40, channels)
        assert np.abs(255 * other.movedim(0, -1).numpy() - wanted).mean() < 1.0


def test_bad_input():
    with pytest.raises(ValueError, match="unknown corruption 'fogg'; close matches: fog"):
        corrupt(pictures(), "fogg", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity is a whole number from 1 to 5, not {severity}"):
            corrupt(pictures(), "fog", severity)
    with pytest.raises(ValueError, match=r"corruptions are of images \(N, C, H, W\), not of examples \(7,\)"):
        corrupt(torch.rand(4, 7), "fog", 1)
