"""Colours equal Pillow's and kornia's."""

import numpy as np
import pytest
import torch

from agentlib.data import colours


def images(n=5, channels=3, height=6, width=7, seed=0):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


AMOUNT = torch.tensor([0.0, 0.4, 1.0, 1.5, 1.9])


@pytest.mark.slow
def test_all_equal_kornia():
    kornia = pytest.importorskip("kornia")
    x, bits, enhance = images(), torch.tensor([1.0, 3.0, 4.0, 6.0, 7.0]), kornia.enhance
    theirs = {
        "grey": (colours.grey(x), kornia.color.rgb_to_grayscale(x)),
        "posterize": (colours.posterize(x, bits), enhance.posterize(x, bits.long())),
        "solarize": (colours.solarize(x, AMOUNT / 2), enhance.solarize(x, AMOUNT / 2)),
        "equalize": (colours.equalize(images(4, 2, 40, 40)), enhance.equalize(images(4, 2, 40, 40))),
        "sharpness": (colours.blend(x, colours.blurred(x), AMOUNT), enhance.sharpness(x, AMOUNT)),
        "brightness": (colours.blend(x, torch.zeros_like(x), AMOUNT), enhance.adjust_contrast(x, AMOUNT)),
        "contrast": (
            colours.blend(x, colours.grey(x).mean((2, 3), keepdim=True), AMOUNT),
            enhance.adjust_contrast_with_mean_subtraction(x, AMOUNT),
        ),
        "colour": (
            colours.blend(x, colours.grey(x), AMOUNT),
            enhance.adjust_saturation_with_gray_subtraction(x, AMOUNT),
        ),
        "hue": (
            colours.recolour(x, AMOUNT - 0.9, torch.ones(5)),
            enhance.adjust_hue(x, 2 * torch.pi * (AMOUNT - 0.9)),
        ),
        "saturation": (colours.recolour(x, torch.zeros(5), AMOUNT), enhance.adjust_saturation(x, AMOUNT)),
        "auto_contrast": (colours.auto_contrast(x), enhance.normalize_min_max(x)),
    }
    for name, (ours, other) in theirs.items():
        assert ours.shape == other.shape
        assert float((ours - other).abs().max()) < 2e-5, name


def test_equalize_and_auto_contrast_equal_pillow():
    from PIL import Image, ImageOps

    levels = torch.from_numpy(np.random.default_rng(0).integers(40, 180, (3, 3, 24, 24), dtype=np.uint8))
    for ours, theirs in ((colours.equalize, ImageOps.equalize), (colours.auto_contrast, ImageOps.autocontrast)):
        found = ours(levels / 255.0)
        for image, one in zip(levels, found, strict=True):
            wanted = np.asarray(theirs(Image.fromarray(image.movedim(0, -1).numpy())))
            assert np.abs(one.movedim(0, -1).numpy() * 255 - wanted).max() < 1.001  # autocontrast rounds down


def test_hues_of_pure_colours():
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(3, 3, 1, 1)
    turned = colours.recolour(red, torch.tensor([1 / 3, 2 / 3, 1 / 6]), torch.ones(3))[:, :, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 1, 0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(colours.recolour(red, torch.zeros(3), torch.zeros(3)), torch.ones(3, 3, 1, 1))


def test_one_value_stays_as_it_is():
    flat = torch.full((1, 3, 8, 8), 0.25)
    for change in (colours.auto_contrast, colours.equalize, colours.blurred):
        torch.testing.assert_close(change(flat), flat)


def test_hue_needs_three_channels():
    with pytest.raises(ValueError, match="hue and saturation are of images of three channels, these have 1"):
        colours.RandomColour()(torch.rand(2, 1, 4, 4))
