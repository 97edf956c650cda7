"""Runs from scenes: what is refused before one begins, and how it is judged."""

import dataclasses
from typing import Any

import pytest
import torch

from agentlib.core.recipe import Problem
from agentlib.data import ScenesParts, shape_scenes, split_scenes
from agentlib.plots.scenes import segmentations
from agentlib.runs.plan import job_of


@pytest.fixture(scope="module")
def splits():
    return split_scenes(shape_scenes(40, size=16))


def judge_of(what: str, data: ScenesParts) -> Any:
    return job_of(what, Problem(data=data, steps=1), net_arch=(8, 8), batch_size=4).judge


def test_classes_of_pixels_are_judged_by_their_overlaps_and_by_nothing_but_background(splits):
    judge, truth = judge_of("segmentation", splits), splits.test.semantic
    assert judge.scores(truth, splits.test) == {"mean_iou": 1.0, "mean_dice": 1.0}
    guess, _ = judge.floor(splits.train, splits.test)
    share, occurring = float((truth == 0).double().mean()), len(truth.unique())
    assert judge.scores(guess, splits.test)["mean_iou"] == pytest.approx(share / occurring)


def test_depths_are_judged_by_their_errors_and_by_the_mean_of_each_pixel_in_training(splits):
    judge, truth = judge_of("depth", splits), splits.test.depth
    assert judge.scores(truth, splits.test)["abs_rel"] == 0.0
    guess, _ = judge.floor(splits.train, splits.test)
    error = (truth - splits.train.depth.mean(0)).square().mean().sqrt()
    assert judge.scores(guess, splits.test)["rmse"] == pytest.approx(float(error), rel=1e-5)


def test_boxes_are_judged_by_their_average_precision(splits):
    judge, test = judge_of("detection", splits), splits.test
    scores, labels = (test.labels >= 0).float()[..., None], test.labels.float()[..., None]
    found = judge.scores(torch.cat([test.boxes, scores, labels], -1), test)
    assert (found["map_50"], found["map"]) == (pytest.approx(1.0), pytest.approx(1.0))
    nothing = judge.scores(torch.cat([test.boxes, 0.0 * scores, labels], -1), test)
    assert nothing == {"map_50": 0.0, "map": 0.0}
    (box, *_), _ = judge.floor(splits.train, test)
    there = splits.train.labels >= 0
    torch.testing.assert_close(box[0, :4], splits.train.boxes[there].mean(0))
    assert int(box[0, 5]) == int(splits.train.labels[there].mode().values)


def test_evaluations_look_at_random_pictures(splits):
    many = splits.train.take(torch.arange(28).repeat_interleave(10))  # in an order
    judge = judge_of("depth", splits._replace(validation=many))
    assert len(judge.evaluated) == 200
    assert len(judge.evaluated.depth.unique(dim=0)) == 28
    assert judge_of("depth", splits).evaluated is splits.validation


def test_each_part_has_what_is_learned(splits):
    with pytest.raises(ValueError, match="these scenes have no depth"):
        judge_of("depth", splits._replace(test=dataclasses.replace(splits.test, depth=None)))
    none = {"boxes": torch.zeros_like(splits.train.boxes), "labels": torch.full_like(splits.train.labels, -1)}
    with pytest.raises(ValueError, match="no picture of these scenes has an object"):
        judge_of("detection", splits._replace(train=dataclasses.replace(splits.train, masks=None, **none)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels_are_drawn(channels):
    pytest.importorskip("matplotlib")
    figure = segmentations(torch.rand(2, channels, 4, 4), {"truth": torch.zeros(2, 4, 4).long()}, ("cat",))
    assert len(figure.axes) == 4
