"""The box's loss at planted values, boxes in pixels, and a short run."""

from typing import Any

import pytest
import torch

import agentlib
from agentlib.backbones import CNN
from agentlib.data import scenes_from, shape_scenes
from agentlib.learners.vision.localization import Localizer, box_losses
from agentlib.metrics.boxes import iou


def test_the_loss_of_boxes():
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])  # center, width and height: the upper left quarter
    torch.testing.assert_close(box_losses(box, box), torch.zeros(1))
    other = torch.tensor([[0.75, 0.75, 0.5, 0.5]])  # the lower right one: |b - b*|_1 = 1, GIoU = 0 - (1 - .5) / 1
    torch.testing.assert_close(box_losses(box, other), torch.tensor([2.5]))
    half = torch.tensor([[0.125, 0.25, 0.25, 0.5]])  # .125 + .25, and IoU = GIoU = .5
    torch.testing.assert_close(box_losses(half, box), torch.tensor([0.375 + 0.5]))


def test_answers_are_in_pixels_and_inside_of_the_picture():
    network = Localizer(CNN((3, 8, 16), (4,)), (3, 8, 16), ("cat", "dog"))
    with torch.no_grad():
        for head in (network.class_head, network.box_head):
            head.weight.zero_()
            head.bias.zero_()
        network.class_head.bias[1] = 1.0
        network.box_head.bias.copy_(torch.tensor([0.5, 0.75, 0.25, 1 - 1e-6]).logit())
    (found,) = network.answer(torch.zeros(1, 3, 8, 16))
    torch.testing.assert_close(found[0, :4], torch.tensor([6.0, 2.0, 10.0, 8.0]))
    assert int(found[0, 5]) == 1
    assert network.describe(found) == "dog (0.731) at 6.0, 2.0, 10.0, 8.0"


def test_each_training_picture_needs_an_object():
    data = shape_scenes(40, size=16, most=1)
    labels, boxes = data.known("labels").clone(), data.known("boxes")
    labels[30:] = -1
    rows = [(box[:1] if label >= 0 else box[:0]).tolist() for box, label in zip(boxes, labels[:, 0], strict=True)]
    found = scenes_from(data.images.numpy(), rows, [row[row >= 0].tolist() for row in labels], data.classes)
    with pytest.raises(ValueError, match="shows no object: localization needs one in each"):
        agentlib.train("localization", data=found, steps=1, progress=False)


@pytest.mark.slow
def test_a_short_run_finds_the_object():
    small: Any = {"net_arch": (16, 32, 32), "learning_rate": 3e-3, "progress": False}
    result: Any = agentlib.train("localization", data=shape_scenes(400, seed=1, size=24, most=1), steps=200, **small)
    data = shape_scenes(100, seed=2, size=24, most=1)
    found = result.model.answer(data.images).detach()[:, :, :4]
    mean = data.known("boxes").mean(0, keepdim=True).expand(100, -1, -1)
    overlap, floor = (float(iou(boxes, data.known("boxes")).mean()) for boxes in (found, mean))
    assert overlap > floor + 0.25
