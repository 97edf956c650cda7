"""Convolutional networks, the size rule, and images that lie the wrong way round."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.backbones import CNN, NatureCNN, ResNet, UNet
from agentlib.backbones.cnn import BlockConv2d
from agentlib.backbones.images import ImageLayout, convolved_sides, convolved_size


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pixels(*shape, seed=1):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def assert_same_gradients(ours, theirs, x):
    mine, other = ours(x), theirs(x)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    weights = numbers(*mine.shape, seed=5)
    slopes = torch.autograd.grad((mine * weights).sum(), [*ours.parameters(), x])
    expected = torch.autograd.grad((other * weights).sum(), [*theirs.parameters(), x])
    for one, two in zip(slopes, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_nature_cnn_is_the_layers_of_the_paper():
    def by_hand():
        return nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(),
        )  # fmt: skip

    ours, theirs = seeded(lambda: NatureCNN((4, 84, 84))), seeded(by_hand)
    names = [f"convolutions.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
    assert list(ours.state_dict()) == [*names, "linear.0.weight", "linear.0.bias"]  # as in the files there are
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    x = pixels(2, 4, 84, 84)
    torch.testing.assert_close(ours(x), theirs(x.float() / 255.0), rtol=1e-4, atol=1e-6)
    assert_same_gradients(ours.double(), theirs.double(), numbers(2, 4, 84, 84).requires_grad_())
    assert [tuple(one.shape[1:]) for one in ours.maps(x)] == [(32, 20, 20), (64, 9, 9), (64, 7, 7)]


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "height", "width"),
    [(4, 8, 4, 84, 84), (3, 4, 2, 11, 9), (2, 8, 8, 16, 25), (1, 4, 4, 4, 40), (1, 6, 3, 13, 20), (2, 3, 1, 7, 7)],
)
def test_blocks_of_pixels_give_the_same_convolution(channels, kernel, stride, height, width):
    """Also where rows and columns are left over."""
    ours = seeded(lambda: BlockConv2d(channels, 5, kernel, stride)).double()
    theirs = nn.Conv2d(channels, 5, kernel, stride).double()
    theirs.load_state_dict(ours.state_dict())
    assert_same_gradients(ours, theirs, numbers(2, channels, height, width).requires_grad_())
    bytes_ = pixels(2, channels, height, width)
    for images in (bytes_, bytes_.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(ours(images), theirs(images.double() / 255.0), rtol=0.0, atol=1e-12)
    with pytest.raises(ValueError, match="multiple of the stride"):
        BlockConv2d(1, 1, 5, 2)


@pytest.mark.parametrize("norm", ["none", "layer", "group", "batch"])
def test_cnn_equals_layers_of_torch(norm):
    make = {
        "none": lambda channels: nn.Identity(),
        "layer": lambda channels: nn.GroupNorm(1, channels),
        "group": lambda channels: nn.GroupNorm(2, channels),
        "batch": nn.BatchNorm2d,
    }[norm]
    ours = seeded(lambda: CNN((3, 12, 11), (16, "max", (16, 4, 2, 1), "average"), None, "elu", norm)).double()
    bias = norm == "none"
    theirs = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=bias), make(16), nn.ELU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 4, 2, 1, bias=bias), make(16), nn.ELU(), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double()  # fmt: skip
    for parameter in ours.parameters():
        parameter.data += 0.1 * numbers(*parameter.shape)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    assert_same_gradients(ours, theirs, numbers(4, 3, 12, 11).requires_grad_())


def test_cnn_with_a_linear_layer():
    network = seeded(lambda: CNN((1, 8, 8), (4, "max", 6), 10, "tanh", norm="layer")).double()
    x = numbers(3, 1, 8, 8)
    last = network.maps(x)[-1]
    linear, norm, _ = network.linear
    expected = functional.layer_norm(last.flatten(1) @ linear.weight.T, (10,), norm.weight, norm.bias)
    torch.testing.assert_close(network(x), torch.tanh(expected), rtol=0, atol=1e-12)
    assert [tuple(one.shape[1:]) for one in network.maps(x)] == [(4, 8, 8), (4, 4, 4), (6, 4, 4)]


def test_a_convolution_is_a_product_with_the_patches():
    """z[i, j] = sum over a, b, c of w[a, b, c] x[s i + a - p, s j + b - p, c]: outputs and both gradients."""
    for kernel, stride, padding in itertools.product((1, 2, 3), (1, 2, 3), (0, 1)):
        network = CNN((2, 7, 6), ((3, kernel, stride, padding),), None, norm="none").double()
        layer: Any = network.convolutions[0]
        x = numbers(2, 2, 7, 6).requires_grad_()
        patches = functional.unfold(x, kernel, padding=padding, stride=stride)  # (B, C * k * k, positions)
        sides = convolved_size(7, kernel, stride, padding), convolved_size(6, kernel, stride, padding)
        expected = torch.einsum("ok,bkp->bop", layer.weight.flatten(1), patches) + layer.bias[:, None]
        expected = expected.reshape(2, 3, *sides)
        found = layer(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        weights = numbers(*found.shape, seed=2)
        slopes, others = (
            torch.autograd.grad((one * weights).sum(), [x, layer.weight, layer.bias]) for one in (found, expected)
        )
        for one, two in zip(slopes, others, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_poolings():
    x = numbers(2, 3, 7, 6).float()
    windows = x[:, :, :6].reshape(2, 3, 3, 2, 3, 2)  # (B, C, h, 2, w, 2); the odd row is dropped
    found = {name: CNN((3, 7, 6), (name,), None).maps(x)[0] for name in ("max", "average")}
    torch.testing.assert_close(found["max"], windows.amax((3, 5)))
    torch.testing.assert_close(found["average"], windows.mean((3, 5)))


def test_moves_with_the_image():
    """What a convolution finds moves as the image moves, away from the borders."""
    network = CNN((1, 16, 16), (4, 4), None, norm="none").double()
    x = numbers(1, 1, 16, 16)
    moved = torch.roll(x, (2, 3), (2, 3))
    before, after = network.maps(x)[-1], network.maps(moved)[-1]
    torch.testing.assert_close(after[..., 5:13, 6:13], before[..., 3:11, 3:10], rtol=0, atol=1e-12)


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_the_size_rule_is_torchs():
    for size, kernel, stride, padding in itertools.product(range(1, 14), range(1, 6), range(1, 4), range(3)):
        if size + 2 * padding >= kernel and padding <= kernel // 2:
            expected = functional.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding).shape[-1]
            assert convolved_size(size, kernel, stride, padding) == expected


NETWORKS: dict[str, tuple[Any, int]] = {
    "nature_cnn": (lambda side: NatureCNN((1, side, 90)), 36),
    "cnn": (lambda side: CNN((1, 20, side)), 4),
    "cnn without padding": (lambda side: CNN((1, side, side), ((4, 5, 2), "max", (4, 3, 1))), 15),
    "resnet_small": (lambda side: ResNet.named("resnet_small", (1, side, side)), 3),
    "resnet18": (lambda side: ResNet.named("resnet18", (3, side, 40)), 17),
    "unet": (lambda side: UNet((1, side, side), widths=(8, 8, 8)), 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_too_small_an_image_is_found_when_the_network_is_built(name):
    build, smallest = NETWORKS[name]
    network = build(smallest)
    assert torch.isfinite(network(torch.rand(2, *network.layout.shape))).all()
    for side in range(5 if smallest > 5 else 1, smallest):
        with pytest.raises(ValueError, match=rf"is too small: both sides must be at least {smallest}$"):
            build(side)


def test_sides_after_layers():
    assert convolved_sides(ImageLayout((3, 84, 96)), [(8, 4, 0), (4, 2, 0), (3, 1, 0)]) == (7, 8)


# Layouts -------------------------------------------------------------------------------------------------------------


def test_both_layouts_give_the_same():
    images = pixels(5, 40, 44, 3)  # (B, H, W, C)
    last = seeded(lambda: NatureCNN((40, 44, 3), 16, channels_last=True))
    first = seeded(lambda: NatureCNN((3, 40, 44), 16))
    assert torch.equal(last(images), first(images.movedim(-1, 1)))
    assert torch.equal(last(images.float() / 255.0), last(images))
    stack = pixels(5, 2, 40, 44, 3)  # two colour frames
    stacked = seeded(lambda: NatureCNN((2, 40, 44, 3), 16, channels_last=True))
    six = seeded(lambda: NatureCNN((6, 40, 44), 16))
    expected = six(torch.cat([stack[:, 0].movedim(-1, 1), stack[:, 1].movedim(-1, 1)], dim=1))
    torch.testing.assert_close(stacked(stack), expected)  # other strides, other rounding


@pytest.mark.parametrize("shape", [(40, 44, 1), (1, 40, 44, 1), (43, 47, 1)])
def test_grey_bytes_with_their_channel_last_are_taken(shape):
    *_, height, width, _ = shape
    last, first = (
        seeded(lambda: NatureCNN(shape, 16, channels_last=True)),
        seeded(lambda: NatureCNN((1, height, width), 16)),
    )
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    torch.testing.assert_close(last(images), first(images.reshape(3, 1, height, width)))


def test_one_channel_needs_no_axis_and_flat_images_are_taken():
    network, x = CNN((1, 8, 8)), torch.rand(3, 1, 8, 8)
    assert torch.equal(network(x), network(x[:, 0]))
    assert torch.equal(network(x), network(x.flatten(1)))


BUILDERS = [CNN, NatureCNN, UNet, lambda shape, **arguments: ResNet(shape, (1, 1), 8, **arguments)]


@pytest.mark.parametrize("build", BUILDERS, ids=["cnn", "nature_cnn", "unet", "resnet"])
def test_a_shape_that_is_turned_is_refused_with_the_remedy(build):
    with pytest.raises(
        ValueError, match=r"\(64, 80, 3\) looks like \(H, W, C\).*channels_last=True.*transpose\(2, 0, 1\)"
    ):
        build((64, 80, 3))
    image = np.zeros((64, 80, 3)).transpose(2, 0, 1)  # as the message has it
    assert build(image.shape).layout.channels == 3
    assert build((64, 80, 3), channels_last=True).layout.channels == 3
    with pytest.raises(ValueError, match=r"\(3, 64, 80\) looks like \(C, H, W\).*leave it away.*transpose\(1, 2, 0\)"):
        build((3, 64, 80), channels_last=True)
    assert build(np.zeros((3, 64, 80)).transpose(1, 2, 0).shape, channels_last=True).layout.channels == 3


def test_images_that_are_turned_are_refused_with_the_remedy():
    first, last = CNN((3, 8, 9), (4,)), CNN((8, 9, 3), (4,), channels_last=True)
    with pytest.raises(
        ValueError, match=r"takes images \(C, H, W\).*those are \(H, W, C\); turn them, images.movedim\(-1, -3\)"
    ):
        first(torch.rand(2, 8, 9, 3))
    first(torch.rand(2, 8, 9, 3).movedim(-1, -3))
    with pytest.raises(
        ValueError, match=r"takes images \(H, W, C\).*those are \(C, H, W\); turn them, images.movedim\(-3, -1\)"
    ):
        last(torch.rand(2, 3, 8, 9))
    last(torch.rand(2, 3, 8, 9).movedim(-3, -1))
    with pytest.raises(ValueError, match=r"of shape \(3, 8, 9\), not a batch of shape \(2, 3, 9, 8\)$"):
        first(torch.rand(2, 3, 9, 8))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNN((8, 8)), r"an image has shape \(C, H, W\)"),
        (lambda: CNN((1, 0, 8)), "holds nothing"),
        (lambda: CNN((1, 8, 8), ("mex",)), "unknown pooling 'mex'; close matches: max"),
        (lambda: CNN((1, 8, 8), ((4, 3),)), r"a convolution is its channels, or \(channels, kernel, stride"),
        (lambda: ResNet((1, 64, 64), stem="smal"), "unknown stem 'smal'; close matches: small"),
        (lambda: ResNet((1, 64, 64), blocks=(1, 0)), "at least one block"),
        (lambda: ResNet.named("resnet_18", (1, 64, 64)), "unknown ResNet 'resnet_18'; close matches: resnet18"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()
