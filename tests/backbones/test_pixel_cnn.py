"""The networks of a PixelCNN: they see the past, all of it, and nothing else."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from agentlib.backbones import GatedPixelCNN, PixelTransformer


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


@pytest.mark.parametrize(("kernel", "layers"), [(3, 6), (5, 3), (7, 2), (None, 1), (None, 2)])
def test_each_pixel_s_numbers_depend_on_all_pixels_before_and_on_no_other(kernel, layers):
    """By the Jacobian; `layers * (kernel // 2)` is the side: there is a way from each pixel to each later one."""
    side = 6
    if kernel:
        network: Any = GatedPixelCNN((1, side, side), 2, channels=6, layers=layers, kernel=kernel).double()
    else:
        network = PixelTransformer((1, side, side), 2, dim=8, layers=layers, heads=2).double()
    image = torch.rand(1, 1, side, side, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x).sum((0, 1)), image)
    seen = jacobian.flatten(2).view(side * side, side * side) != 0  # (output pixel, input pixel)
    assert torch.equal(seen, torch.ones(side * side, side * side).tril(-1).bool())


def test_cut_kernels_are_masked_convolutions():
    network = GatedPixelCNN((2, 7, 8), 3, channels=4, layers=2, kernel=5)
    x = torch.randn(3, 2, 7, 8)
    layers: Any = network.stack
    for layer, depth, rows in ((layers[0], 2, 2), (layers[1], 4, 3)):
        tall, wide = torch.zeros(8, depth, 5, 5), torch.zeros(8, depth, 1, 5)
        tall[:, :, :rows], wide[..., :rows] = layer.vertical.weight, layer.horizontal.weight
        v, h = (torch.randn(3, depth, 7, 8) for _ in range(2)) if depth != 2 else (x, x)
        expected = functional.conv2d(v, tall, layer.vertical.bias, padding=2)
        torch.testing.assert_close(layer.down(functional.pad(v, (2, 2, 2, 0)), None)[:, :, :7], expected)
        across = layer.across(expected)
        gates = functional.conv2d(h, wide, layer.horizontal.bias, padding=(0, 2)) + across
        a, b = gates.chunk(2, 1)
        found = layer(v, h, None)[1]
        torch.testing.assert_close(found, layer.mix(a.tanh() * b.sigmoid()) + (0.0 if depth == 2 else h))


@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_pixel_by_pixel_it_computes_what_it_computes_at_once(kind):
    """`generate` gives the network's numbers of each pixel to `draw`, computed once each."""
    network: Any = PixelTransformer((2, 5, 7), 3, dim=8, layers=2, heads=2, n_classes=2)
    if kind == "convolution":
        network = GatedPixelCNN((2, 5, 7), 3, channels=4, layers=3, kernel=5, n_classes=2)
        torch.nn.init.normal_(network.place)
    network.double()
    told = []
    generator = torch.Generator().manual_seed(1)

    def draw(numbers):
        told.append(numbers)
        return torch.rand(len(numbers), 2, generator=generator, dtype=torch.float64)

    label = torch.tensor([0, 1, 1])
    images = network.generate(3, draw, label)
    assert images.shape == (3, 2, 5, 7)
    torch.testing.assert_close(torch.stack(told, 2).view(3, 3, 5, 7), network(images, label))


def test_networks_that_cannot_be():
    with pytest.raises(ValueError, match="an odd side from 3 on, not 4"):
        GatedPixelCNN((1, 8, 8), 1, kernel=4)
    with pytest.raises(ValueError, match=r"takes images \(C, H, W\), and an example of this data is \(2,\)"):
        GatedPixelCNN((2,), 1)
    with pytest.raises(ValueError, match=r"takes images \(C, H, W\), and an example here is \(2,\)"):
        PixelTransformer((2,), 1)
