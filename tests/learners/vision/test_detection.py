from typing import Any

import numpy as np
import pytest
import torch

from agentlib.backbones import CNN, from_spec
from agentlib.backbones.regions import encoded
from agentlib.engine import run
from agentlib.learners.vision.detection import Detection, matched, mean_where, region_loss
from agentlib.learners.vision.detector import Detector
from agentlib.metrics.boxes import iou

OBJECTS = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [10.0, 10.0, 14.0, 13.0], [0.0, 0.0, 0.0, 0.0]]])
LABELS = torch.tensor([[1.0, 0.0, -1.0]])


def detector(proposals=6):
    network = CNN((3, 16, 16), ((8, 3, 2, 1), (8, 3, 2, 1)), feature_dim=None, norm="group")
    return Detector(network, (3, 16, 16), ("cat", "dog"), proposals=proposals, hidden=16)


def test_boxes_are_matched_to_the_objects_that_they_overlap():
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 4.0], [0.0, 0.0, 8.0, 8.0], [10.0, 10.0, 16.0, 16.0], [8.0, 8.0, 9.0, 9.0]]])
    best, row, is_best = matched(boxes, OBJECTS, LABELS)
    torch.testing.assert_close(best, torch.tensor([[0.5, 1.0, 12 / 36, 0.0]]))
    assert row[0, :3].tolist() == [0, 0, 1]
    assert is_best.tolist() == [[False, True, True, False]]
    none, _, best_of_none = matched(boxes, OBJECTS, torch.full_like(LABELS, -1))
    assert bool((none == -1).all())
    assert not best_of_none.any()
    assert float(mean_where(torch.ones(3), torch.zeros(3))) == 0.0


def test_the_loss_of_regions_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(40, 2, generator=generator) * 10
    anchors = torch.cat([start, start + 2 + 6 * torch.rand(40, 2, generator=generator)], 1)
    objectness, offsets = torch.randn(1, 40, generator=generator), torch.randn(1, 40, 4, generator=generator)
    y = torch.cat([OBJECTS, LABELS[..., None]], -1)
    overlaps = iou(anchors, OBJECTS[0, :2])
    best = {int(overlaps[:, one].argmax()) for one in range(2)}
    positive = [i for i in range(40) if float(overlaps[i].max()) >= 0.5 or i in best]
    negative = [i for i in range(40) if float(overlaps[i].max()) < 0.3 and i not in best]
    s = objectness[0].sigmoid().numpy()
    expected = -0.5 * (np.log(s[positive]).mean() + np.log(1 - s[negative]).mean())
    errors = []
    for i in positive:
        goal = encoded(OBJECTS[0, int(overlaps[i].argmax())], anchors[i])
        d = (offsets[0, i] - goal).abs()
        errors.append(float(torch.where(d < 1, 0.5 * d * d, d - 0.5).sum()))
    assert float(region_loss(objectness, offsets, anchors, y)) == pytest.approx(expected + np.mean(errors), rel=1e-5)
    nothing = torch.cat([torch.zeros_like(OBJECTS), torch.full_like(LABELS, -1)[..., None]], -1)
    no_object = -0.5 * np.log(1 - s).mean()
    assert float(region_loss(objectness, offsets, anchors, nothing)) == pytest.approx(no_object, rel=1e-5)


def test_proposals_are_the_best_of_their_neighbours():
    net = detector(proposals=3)
    objectness = torch.full((1, 4, 4, 3), -5.0)
    objectness[0, 1, 1, 0], objectness[0, 1, 2, 0], objectness[0, 3, 3, 2] = 3.0, 2.0, 1.0
    boxes = net.propose(objectness.flatten(1), torch.zeros(1, 48, 4))
    anchors = net.anchors.reshape(4, 4, 3, 4).clamp(0, 16)
    torch.testing.assert_close(boxes[0, 0], anchors[1, 1, 0])
    torch.testing.assert_close(boxes[0, 1], anchors[3, 3, 2])  # the second best is beside the best


def test_detections_are_without_duplicates_and_in_pixels():
    """A head that is sure of a class everywhere: each region is found, but for those that overlap a better one."""
    net = detector().eval()
    torch.nn.init.zeros_(net.class_head.weight)
    with torch.no_grad():
        net.class_head.bias.copy_(torch.tensor([0.0, 8.0, 0.0]))
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net.answer(images)
    assert found.shape == (2, 6, 6)
    for row in found:
        some = row[row[:, 4] > 0]
        assert len(some) > 0
        assert bool((some[:, 5] == 0).all())
        assert float((iou(some[:, :4], some[:, :4]) - torch.eye(len(some))).max()) <= 0.5
        assert float(some[:, :4].min()) >= 0
        assert float(some[:, :4].max()) <= 16
        assert bool((row[len(some) :, 5] == -1).all())
    again: Any = from_spec(net.spec, {"detector": Detector}).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.answer(images), found)
    told = net.describe(found[0])
    assert told.startswith("cat (0.99")
    assert net.describe(torch.zeros(2, 6)) == "nothing"


def test_it_learns_where_shapes_are():
    learner, source = Detection.tiny()
    losses = [float(update.metrics["loss"]) for _, update in run(learner, source, 60, compile=False)]
    assert losses[-1] < 0.7 * losses[0]
