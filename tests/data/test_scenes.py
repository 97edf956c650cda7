import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from agentlib.data import Dataset, Scenes, parts, scene_parts, scenes_from, shape_scenes, split_scenes, two_on_canvas
from agentlib.data.scene_toys import FAR, INK, LEAST_SHOWN, NEAR, RADIUS, WALL
from agentlib.data.toys import COLOURS
from agentlib.metrics.boxes import areas, mask_boxes

IMAGES = np.zeros((2, 3, 8, 10), np.uint8)


def scenes(boxes=((0, 0, 4, 4),), labels=("cat",), **more):
    return scenes_from(IMAGES, [list(boxes), []], [list(labels), []], ["cat", "dog"], **more)


def test_objects_of_pictures_are_padded():
    found = scenes([(0, 0, 4, 4), (1, 2, 10, 8)], ["dog", 0])
    assert found.images.shape == (2, 3, 8, 10)
    assert found.labels is not None
    assert found.labels.tolist() == [[1, 0], [-1, -1]]
    assert found.counts.tolist() == [2, 0]
    assert found.known("boxes")[0].tolist() == [[0, 0, 4, 4], [1, 2, 10, 8]]
    assert found.take(np.array([1, 0])).counts.tolist() == [0, 2]
    with pytest.raises(ValueError, match="these scenes have no depth, and without them there is nothing to learn"):
        found.known("depth")
    assert torch.equal(scenes([(0, 0, 4, 4)], convention="xywh").known("boxes"), scenes().known("boxes"))
    last = np.moveaxis(IMAGES, 1, -1)
    assert scenes_from(last, [[], []], [[], []], ["cat"]).images.shape == (2, 3, 8, 10)


def test_arrays_of_other_types_are_converted():
    found = scenes(masks=np.zeros((2, 8, 10), np.int64), depth=np.full((2, 8, 10), 700, np.uint16))
    assert (found.known("masks").dtype, found.known("depth").dtype) == (torch.uint8, torch.float32)
    assert float(found.known("depth")[0, 0, 0]) == 700.0
    for width in np.arange(1, 100) / 10:  # up to the right edge, without an error of rounding
        box = scenes([(10 - width / 2, 4, width, 8)], convention="cxcywh").known("boxes")[0, 0]
        assert box.tolist() == pytest.approx([10 - width, 0, 10, 8], abs=1e-5)


def test_classes_of_pixels():
    masks = np.zeros((2, 8, 10), np.uint8)
    masks[0, :2, :2], masks[0, 2:4, :2] = 1, 2
    found = scenes([(0, 0, 2, 2), (0, 2, 2, 4)], ["dog", "cat"], masks=masks)
    assert found.semantic[0, :5, 0].tolist() == [2, 2, 1, 1, 0]
    assert not found.semantic[1].any()


WRONG: list[tuple[Any, str]] = [
    ({"boxes": [(4, 0, 12, 4)]}, r"box 0 of picture 0, \(4, 0, 12, 4\), reaches outside of the picture of 8 x 10"),
    ({"boxes": [(0, 0, 4, 9)]}, "reaches outside"),
    ({"boxes": [(3, 3, 3, 5)]}, r"\(3, 3, 3, 5\), is empty: boxes are \(x1, y1, x2, y2\) in pixels"),
    ({"boxes": [(0, 0, float("nan"), 4)]}, "is empty"),
    ({"boxes": [(6, 5, 4, 3)]}, "is empty: .* right as xywh: scenes_from"),
    ({"boxes": [(8, 6, 4, 4)]}, "is empty: .* right as cxcywh: scenes_from"),
    ({"boxes": [(0.1, 0.2, 0.5, 0.9)]}, "look like shares of the sides: multiply them"),
    ({"labels": ["bird"]}, "object 0 of picture 0 is a 'bird', which is no class: cat, dog"),
    ({"labels": [2]}, "object 0 of picture 0 is a 2, which is no class"),
    ({"labels": ["cat", "cat"]}, r"boxes of shape \(1, 4\) and 2 labels"),
    ({"masks": np.zeros((2, 8, 8), np.uint8)}, "masks are of 8 x 8 pixels, and the pictures of 8 x 10"),
    ({"depth": np.ones((2, 4, 4), np.float32)}, "depth are of 4 x 4 pixels"),
    ({"depth": np.zeros((2, 8, 10), np.float32)}, "a depth is a distance above 0"),
    ({"masks": np.full((2, 8, 10), 1, np.uint8)}, "mask of picture 1 shows object 1, which has no box"),
    ({"captions": ["one"]}, "2 images and 1 captions"),
    ({"masks": np.zeros((1, 8, 10), np.uint8)}, "2 images and 1 masks"),
    ({"masks": np.full((2, 8, 10), 256)}, "masks are whole numbers from 0 to 255"),
    ({"masks": np.full((2, 8, 10), 0.5)}, "masks are whole numbers from 0 to 255"),
    ({"depth": np.full((2, 8, 10), np.inf, np.float32)}, "a depth is a distance above 0"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=lambda value: value[:20] if isinstance(value, str) else "")
def test_what_is_wrong_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        scenes(**given)


def test_what_is_wrong_with_arrays_is_said():
    found = scenes([(0, 0, 4, 4), (0, 0, 4, 4)], [0, 1])
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, H, W\).* not float64 \(2, 3, 8, 10\)"):
        scenes_from(IMAGES.astype(float), [[], []], [[], []], ["cat"])
    with pytest.raises(ValueError, match="2 images, 1 lists of boxes and 2 of labels"):
        scenes_from(IMAGES, [[]], [[], []], ["cat"])
    with pytest.raises(ValueError, match="the objects of a picture come first"):
        dataclasses.replace(found, labels=torch.tensor([[-1, 0], [0, 1]]))
    with pytest.raises(ValueError, match="boxes and labels belong together"):
        dataclasses.replace(found, labels=None)
    with pytest.raises(ValueError, match="label 1 is none of the 1 classes"):
        dataclasses.replace(found, classes=("cat",))
    with pytest.raises(TypeError, match=r"images is a ndarray: agentlib.data.scenes_from"):
        Scenes(IMAGES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images are uint8"):
        Scenes(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"labels are torch\.int64, not torch\.int32: .*scenes_from converts"):
        dataclasses.replace(found, labels=found.known("labels").int())
    with pytest.raises(ValueError, match="2 pictures are too few"):
        split_scenes(found)


@pytest.fixture(scope="module")
def shapes():
    return shape_scenes(60, seed=1)


def test_shapes_are_the_same_by_seed(shapes):
    again, other = shape_scenes(60, seed=1), shape_scenes(60, seed=2)
    for name in ("images", "boxes", "labels", "masks", "depth"):
        assert torch.equal(getattr(shapes, name), getattr(again, name))
        assert not torch.equal(getattr(shapes, name), getattr(other, name))
    assert shapes.captions == again.captions


def test_what_is_known_of_shapes_agrees(shapes):
    """Boxes, masks, depths, colours and captions tell of the same objects."""
    counts = shapes.counts
    assert counts.min() >= 1
    assert counts.max() == 4
    assert torch.equal(shapes.boxes, mask_boxes(shapes.masks, 4))
    hidden = 0
    for row in range(len(shapes)):
        depths, names = [], []
        for one in range(int(counts[row])):
            seen = shapes.masks[row] == one + 1
            (z,) = shapes.depth[row][seen].unique().tolist()
            depths.append(z)
            size = 64 * 2 * RADIUS / z
            box = shapes.boxes[row, one]
            hidden += float(box[2] - box[0]) < 0.6 * size
            assert float((box[2:] - box[:2]).max()) <= size + 1
            colour = shapes.images[row][:, seen].float().mean(1) / 255
            near = min(COLOURS, key=lambda name: float((colour - torch.tensor(COLOURS[name])).abs().sum()))
            names.append((float(box[0]), f"a {near} {shapes.classes[shapes.labels[row, one]]}"))
        assert depths == sorted(depths)
        assert min(depths) >= NEAR
        assert max(depths) <= FAR
        told = shapes.captions[row].replace(" and ", ", ").split(", ")
        assert sorted(told) == sorted(name for _, name in names)
        lefts = [left for left, _ in sorted(names)]
        assert len(set(lefts)) < len(lefts) or told == [name for _, name in sorted(names)]
    assert hidden > 0  # some are in part behind others
    wall = shapes.depth[shapes.masks == 0]
    assert float(wall.min()) >= WALL
    assert float(wall.max()) <= WALL + 1


def test_a_shape_is_seen_as_far_as_nothing_is_in_front():
    """Areas of unhidden shapes are those of their outlines; none that is in the picture is nearly hidden."""
    found = shape_scenes(40, seed=3, most=1)
    inside = {"circle": np.pi, "square": 1.7**2, "triangle": 0.5 * 1.9 * 1.9, "cross": 4 * 0.6 - 0.36}
    for row in range(40):
        radius = 64 * RADIUS / float(found.known("depth")[row].min())
        area = int((found.known("masks")[row] == 1).sum())
        assert area == pytest.approx(inside[found.classes[int(found.known("labels")[row, 0])]] * radius**2, rel=0.2)
    many = shape_scenes(40, seed=4, most=8)
    assert bool((areas(many.known("boxes"))[many.known("labels") >= 0] > 0).all())
    assert 0 < LEAST_SHOWN < 1


def test_two_digits_on_a_canvas():
    data = parts("digits", 0).train
    found = two_on_canvas(data, 50)
    assert found.images.shape == (50, 1, 24, 24)
    assert found.counts.tolist() == [2] * 50
    assert found.captions is not None
    for row in range(50):
        a, b = found.known("labels")[row].tolist()
        assert found.captions[row] == f"{a} and {b}"
        bright = found.images[row, 0].float() / 255 >= INK
        assert torch.equal(bright, found.known("masks")[row] > 0)
    assert two_on_canvas(Dataset(torch.rand(3, 1, 28, 28), torch.arange(3), tuple("abc")), 2).sides == (64, 64)
    with pytest.raises(ValueError, match="images between 0 and 1, not from 0 to 16: scale them"):
        two_on_canvas(Dataset(data.x * 16, data.targets, data.classes))
    with pytest.raises(ValueError, match=r"square images \(N, C, S, S\) with classes, not \(9, 4\)"):
        two_on_canvas(Dataset(torch.rand(9, 4), torch.zeros(9).long(), ("a",)))


@pytest.mark.slow
def test_two_large_images_need_little_more_than_their_pictures():
    data = Dataset(torch.rand(4, 3, 56, 56), torch.arange(4) % 2, ("a", "b"))
    tracemalloc.start()
    found = two_on_canvas(data, 2_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2.0 * found.images.numel()  # it was 13 times


def test_parts_of_scenes():
    found = scene_parts(shape_scenes(20, size=16))
    assert [len(part) for part in found] == [14, 3, 3]
    assert scene_parts(found) is found
    captions = [one for part in found for one in part.captions or ()]
    assert sorted(captions) == sorted(shape_scenes(20, size=16).captions or ())
    other = dataclasses.replace(found.test, classes=("circle", "triangle", "square", "cross"))
    with pytest.raises(
        ValueError, match=r"differ in their classes or shapes: train: circle, square, .* test: circle, tri"
    ):
        scene_parts(found._replace(test=other))
    with pytest.raises(ValueError, match="differ in their classes or shapes"):
        scene_parts(found._replace(validation=shape_scenes(3, size=24)))
    with pytest.raises(ValueError, match="unknown data set 'shopes'"):
        scene_parts("shopes")
    with pytest.raises(ValueError, match="n must be"):
        shape_scenes(0)


def test_a_shape_that_is_too_small_to_be_seen_leaves_an_empty_picture():
    """Of 16 pixels a far one has less than three; the picture has no object, and its caption says so."""
    scenes = shape_scenes(1_500, size=16, most=1)
    empty = [caption == "nothing" for caption in scenes.captions or ()]
    assert any(empty)
    assert empty == (scenes.counts == 0).tolist()
