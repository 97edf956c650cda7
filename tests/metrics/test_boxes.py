import contextlib
import io

import numpy as np
import pytest
import torch

from agentlib.metrics.boxes import (
    COCO_THRESHOLDS,
    Found,
    as_corners,
    average_precisions,
    generalized_iou,
    iou,
    mask_boxes,
    nms,
)


def random_boxes(n, seed=0, side=40):
    generator = np.random.default_rng(seed)
    start = generator.integers(0, side - 8, (n, 2))
    return torch.from_numpy(np.concatenate([start, start + generator.integers(2, 9, (n, 2))], 1)).double()


def test_overlaps_are_those_of_counted_pixels():
    first, second = random_boxes(12), random_boxes(9, 1)
    ticks = torch.arange(40) + 0.5

    def painted(box):
        x, y = (ticks > box[0]) & (ticks < box[2]), (ticks > box[1]) & (ticks < box[3])
        return y[:, None] & x[None, :]

    for i, one in enumerate(first):
        for j, other in enumerate(second):
            a, b = painted(one), painted(other)
            both, either = int((a & b).sum()), int((a | b).sum())
            around = painted([*torch.minimum(one, other)[:2], *torch.maximum(one, other)[2:]])
            assert iou(first, second)[i, j] == pytest.approx(both / either)
            expected = both / either - (int(around.sum()) - either) / int(around.sum())
            assert generalized_iou(first, second)[i, j] == pytest.approx(expected)


def test_null_values_of_overlaps():
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    touching, empty = torch.tensor([[2.0, 0.0, 4.0, 2.0]]), torch.zeros(1, 4)
    assert (float(iou(box, box)), float(generalized_iou(box, box))) == (1.0, 1.0)
    assert (float(iou(box, touching)), float(generalized_iou(box, touching))) == (0.0, 0.0)
    assert float(iou(empty, empty)) == 0.0
    far = torch.tensor([[1e4, 0.0, 1e4 + 2.0, 2.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(generalized_iou(box, far).sum(), far)
    assert float(generalized_iou(box, far).detach()) < -0.99
    assert float(slope[0, 0]) < 0  # nearer is better


def test_conventions():
    corners = torch.tensor([[2.0, 3.0, 8.0, 5.0]])
    assert torch.equal(as_corners(torch.tensor([[2.0, 3.0, 6.0, 2.0]]), "xywh"), corners)
    assert torch.equal(as_corners(torch.tensor([[5.0, 4.0, 6.0, 2.0]]), "cxcywh"), corners)
    assert as_corners(corners) is corners
    with pytest.raises(ValueError, match="xyxy, xywh or cxcywh, not 'yxyx'"):
        as_corners(corners, "yxyx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"four numbers, and these are of shape \(1, 3\)"):
        as_corners(corners[:, :3])


def test_suppression_by_its_definition():
    """A box stays if and only if no box that stays is better and overlaps it."""
    boxes, labels = random_boxes(60, side=20), torch.arange(60) % 2
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0))
    kept = nms(boxes, scores, 0.3, labels).tolist()
    assert [float(scores[i]) for i in kept] == sorted((float(scores[i]) for i in kept), reverse=True)
    overlap = iou(boxes, boxes)
    for i in range(60):
        rivals = [j for j in kept if scores[j] > scores[i] and labels[j] == labels[i] and overlap[i, j] > 0.3]
        assert (i in kept) == (not rivals)
    assert len(nms(boxes, scores, 0.3)) < len(kept)
    assert nms(boxes[:2].repeat_interleave(2, 0), torch.ones(4), 0.5).tolist() == [0, 2]  # of equal ones the first
    assert nms(torch.zeros(0, 4), torch.zeros(0)).tolist() == []


def test_boxes_of_masks():
    masks = torch.zeros(2, 5, 6, dtype=torch.uint8)
    masks[0, 1:3, 2:5], masks[0, 4, 0] = 1, 2
    expected = [[[2, 1, 5, 3], [0, 4, 1, 5], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3]
    assert mask_boxes(masks, 3).tolist() == expected


def test_average_precision_of_few_detections():
    box = np.array([[0.0, 0.0, 4.0, 4.0]])
    truth = Found(np.array([0, 1]), np.repeat(box, 2, 0), np.zeros(2, np.int64))

    def ap(image, boxes, scores):
        found = Found(np.array(image), np.array(boxes, float), np.zeros(len(image), np.int64), np.array(scores))
        return average_precisions(found, truth, 2)

    assert ap([0, 1], [*box, *box], [0.9, 0.8])[0, 0] == pytest.approx(1.0)
    assert np.isnan(ap([0, 1], [*box, *box], [0.9, 0.8])[0, 1])  # of which there is none
    # One of two objects is found: precision 1 up to recall .5, of 101 recalls 51.
    assert ap([0], box, [0.9])[0, 0] == pytest.approx(51 / 101)
    # The second one on the same object is wrong, and ranks over all pictures together.
    assert ap([0, 0, 1], [*box, *box, *box], [0.9, 0.8, 0.7])[0, 0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert ap([0, 1], [*(box + 10), *(box + 10)], [0.9, 0.8])[0, 0] == 0.0
    assert ap([], np.zeros((0, 4)), [])[0, 0] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_pycocotools(seed):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    generator = np.random.default_rng(seed)
    images, classes = 12, 3
    truth = Found(
        generator.integers(images, size=40), random_boxes(40, seed).numpy(), generator.integers(classes, size=40)
    )
    near = generator.integers(40, size=300)
    found = Found(
        truth.image[near],
        truth.boxes[near] + generator.integers(-2, 3, (300, 4)) * np.array([1, 1, 0, 0]),
        np.where(generator.random(300) < 0.7, truth.labels[near], generator.integers(classes, size=300)),
        np.round(generator.random(300), 1),  # with many ties
    )

    def rows(of):
        size = of.boxes[:, 2:] - of.boxes[:, :2]
        boxes = np.concatenate([of.boxes[:, :2], size], 1)
        return [
            {"id": i + 1, "image_id": int(image), "category_id": int(label), "bbox": box.tolist(),
             "area": float(box[2] * box[3]), "iscrowd": 0}
            | ({} if of.scores is None else {"score": float(of.scores[i])})
            for i, (image, label, box) in enumerate(zip(of.image, of.labels, boxes, strict=True))
        ]  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = {
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": i} for i in range(classes)],
            "annotations": rows(truth),
        }
        theirs.createIndex()
        evaluation = cocoeval.COCOeval(theirs, theirs.loadRes(rows(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes)
    ours = average_precisions(found, truth, classes, COCO_THRESHOLDS)
    np.testing.assert_allclose(ours, precision.mean(1), atol=1e-12)
