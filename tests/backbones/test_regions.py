import math
from typing import Any

import pytest
import torch

from agentlib.backbones import CNN, MLP, ResNet, UNet, from_spec
from agentlib.backbones.pixels import PixelNetwork, map_shapes
from agentlib.backbones.regions import anchors_on, decoded, encoded, roi_align


def slow_roi_align(maps, boxes, size, sampling):
    """Point by point, as the paper has it: four neighbours, weighed by their distance."""
    _, channels, height, width = maps.shape
    result = torch.zeros(*boxes.shape[:2], channels, size, size, dtype=maps.dtype)
    for b, r in [(b, r) for b in range(len(maps)) for r in range(boxes.shape[1])]:
        x1, y1, x2, y2 = boxes[b, r].tolist()
        for i in range(size * sampling):
            for j in range(size * sampling):
                y = min(max(y1 + (i + 0.5) * (y2 - y1) / (size * sampling) - 0.5, 0.0), height - 1.0)
                x = min(max(x1 + (j + 0.5) * (x2 - x1) / (size * sampling) - 0.5, 0.0), width - 1.0)
                for row in {math.floor(y), math.ceil(y)}:
                    for column in {math.floor(x), math.ceil(x)}:
                        share = (1 - abs(y - row)) * (1 - abs(x - column))
                        result[b, r, :, i // sampling, j // sampling] += share * maps[b, :, row, column] / sampling**2
    return result


def test_roi_align_equals_a_slow_reference():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 6, 9, generator=generator, dtype=torch.float64)
    start = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64) * 4
    boxes = torch.cat([start, start + torch.rand(2, 4, 2, generator=generator, dtype=torch.float64) * 5], -1)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 9.0, 6.0])
    boxes[0, 1] = torch.tensor([-2.0, 1.0, 12.0, 8.0])  # over the edges
    for size, sampling in [(3, 2), (5, 1), (2, 3)]:
        ours = roi_align(maps, boxes, size, sampling)
        torch.testing.assert_close(ours, slow_roi_align(maps, boxes, size, sampling), atol=1e-12, rtol=0)


def test_roi_align_of_a_plane_is_its_value_at_the_cells_centers():
    y, x = torch.meshgrid(torch.arange(8.0) + 0.5, torch.arange(10.0) + 0.5, indexing="ij")
    plane = (2.0 * x - 3.0 * y)[None, None]
    found = roi_align(plane, torch.tensor([[[2.0, 1.0, 8.0, 7.0]]]), 3)[0, 0, 0]
    centers = torch.tensor([1.0, 3.0, 5.0])
    expected = 2.0 * (2.0 + centers)[None, :] - 3.0 * (1.0 + centers)[:, None]
    torch.testing.assert_close(found, expected)
    whole = torch.randn(1, 2, 4, 4)
    same = roi_align(whole, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), 4, sampling=1)
    torch.testing.assert_close(same[0, 0], whole[0])


def test_anchors():
    found = anchors_on((3, 8, 16), (2, 4), (0.5, 1.0)).reshape(2, 4, 2, 4)
    assert found[0, 0].tolist() == [[0, 0, 4, 4], [-2, -2, 6, 6]]
    assert found[1, 3, 0].tolist() == [12, 4, 16, 8]


def test_boxes_as_offsets_and_back():
    anchors, boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 1.0, 10.0, 3.0]])
    offsets = encoded(boxes, anchors)
    expected = [(6 - 2) / 4 / 0.1, 0.0, math.log(2) / 0.2, math.log(0.5) / 0.2]
    torch.testing.assert_close(offsets[0], torch.tensor(expected))
    torch.testing.assert_close(decoded(offsets, anchors), boxes)
    assert decoded(offsets, anchors, (2, 6)).tolist() == [[2.0, 1.0, 6.0, 2.0]]
    assert bool(torch.isfinite(decoded(torch.full((1, 4), 1e4), anchors)).all())
    assert bool(torch.isfinite(encoded(torch.zeros(1, 4), torch.zeros(1, 4))).all())


@pytest.mark.parametrize(
    "make", [lambda shape: UNet(shape, 5, (4, 8)), lambda shape: CNN(shape), lambda shape: ResNet(shape, (1, 1), 8)]
)
def test_numbers_for_each_pixel_on_any_network_with_maps(make):
    network = PixelNetwork(make((3, 12, 10)), (3, 12, 10), 3, ("cat", "dog")).eval()
    images = torch.randint(256, (2, 3, 12, 10), dtype=torch.uint8)
    assert network(images).shape == (2, 3, 12, 10)
    torch.testing.assert_close(network(images), network(images.float() / 255))
    again: Any = from_spec(network.spec, {"pixels": PixelNetwork}).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.answer(images), network(images).argmax(1))
    told = network.describe(torch.tensor([[0, 0], [2, 0]]))
    assert told == "background 75.0%, dog 25.0%"


def test_a_network_without_maps_is_refused():
    with pytest.raises(ValueError, match="needs a network with maps of the image, such as auto"):
        map_shapes(MLP(48), (3, 4, 4))
