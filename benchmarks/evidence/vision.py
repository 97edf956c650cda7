"""Scenes: classes and depths of pixels, and boxes of objects, beside floors that need no network."""

from functools import partial
from typing import Any

import torch

import agentlib
from agentlib.data import shape_scenes, split_scenes
from agentlib.metrics.boxes import iou
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

FAMILY = "Vision"
SHAPES = "3,000 pictures of up to four shapes, 64x64, 70% to learn from"


def measured(what: str, measure: str, seed: int) -> dict[str, float]:
    """The measure on the test part, its floor, and the share of the floor that is left."""
    return numbers(what, shape_scenes(seed=seed), measure, seed)


def numbers(what: str, data: object, measure: str, seed: int) -> dict[str, float]:
    result = agentlib.train(what, data=data, seed=seed, progress=False)
    assert isinstance(result, agentlib.Result)
    found, floor = result.measures[f"test/{measure}"], result.references[f"test/{measure}"]
    groups = {"instances_ari": ari} if (ari := result.measures.get("test/instances_ari")) is not None else {}
    return {measure: found, "floor": floor, "share": found / max(floor, 1e-9), **groups}


def one_box(seed: int) -> dict[str, float]:
    """The mean overlap of the box with the truth on test pictures, and the share of classes that are right."""
    parts = split_scenes(shape_scenes(seed=seed, most=1), seed)
    result: Any = agentlib.train("localization", data=parts, seed=seed, progress=False)
    test, truth = parts.test, parts.test.known("boxes")[:, :1]
    with torch.no_grad():
        found = result.model.answer(test.images)  # (N, 1, 6)
    mean = parts.train.known("boxes")[:, 0].mean(0).expand(len(test), 1, 4)
    right = (found[:, 0, 5] == test.known("labels")[:, 0]).double()
    overlap, floor = (float(iou(boxes, truth).mean()) for boxes in (found[..., :4], mean))
    return {"mean_iou": overlap, "floor": floor, "accuracy": float(right.mean())}


def two_digits(seed: int) -> dict[str, float]:
    """Two digits of MNIST on a canvas; those of test pictures are from MNIST's test part."""
    return numbers("detection", path("mnist.npz"), "map_50", seed)


EXPERIMENTS = [
    Experiment(
        name="segmentation_shapes",
        family=FAMILY,
        data=f"{SHAPES}, 1,000 updates",
        measure=partial(measured, "segmentation", "mean_iou"),
        claims=(
            Claim("mean_iou", "mean IoU of four shapes and background", at_least=0.92),
            Claim("floor", "nothing but background"),
            Claim("instances_ari", "adjusted Rand index of connected pixels of one class with the objects"),
        ),
        first_seed=200,
    ),
    Experiment(
        name="depth_shapes",
        family=FAMILY,
        data=f"{SHAPES}, 1,000 updates",
        measure=partial(measured, "depth", "abs_rel"),
        claims=(
            Claim("abs_rel", "mean relative error of depths"),
            Claim("floor", "the mean depth of each pixel"),
            Claim("share", "share of it that is left", at_most=0.5),
        ),
        first_seed=200,
    ),
    Experiment(
        name="detection_shapes",
        family=FAMILY,
        data=f"{SHAPES}, 3,000 updates",
        measure=partial(measured, "detection", "map_50"),
        claims=(
            Claim(
                "map_50",
                "mAP at an IoU of .5",
                at_least=0.85,
                reference=".95, on simpler shapes of 128x128, pretrained on COCO (Mask R-CNN's notebook)",
            ),
            Claim("floor", "the mean box with the most frequent class"),
        ),
        first_seed=200,
    ),
    Experiment(
        name="localization_shape",
        family=FAMILY,
        data="3,000 pictures of one shape, 64x64, 70% to learn from; 2,000 updates",
        measure=one_box,
        claims=(
            Claim("mean_iou", "mean IoU of the box", at_least=0.85),
            Claim("accuracy", "accuracy of the class"),
            Claim("floor", "mean IoU of the mean box"),
        ),
        first_seed=200,
    ),
    Experiment(
        name="detection_two_digits",
        family=FAMILY,
        data="2,000 pictures of two training digits of MNIST, 64x64, 3,000 updates; 600 pictures of test digits",
        measure=two_digits,
        files=("mnist.npz",),
        claims=(
            Claim("map_50", "mAP at an IoU of .5", at_least=0.90),
            Claim("floor", "the mean box with the most frequent class"),
        ),
        first_seed=200,
    ),
]
