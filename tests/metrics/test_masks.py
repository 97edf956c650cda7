import math

import pytest
import torch

from agentlib.metrics.masks import (
    adjusted_rand_index,
    confusion,
    depth_errors,
    grouping_score,
    instances,
    mean_dice,
    mean_iou,
)


def labelled(seed, n=5):
    return torch.randint(n, (3, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_overlaps_are_those_of_sets_of_pixels():
    predicted, truth = labelled(0).flatten().tolist(), labelled(1).flatten().tolist()
    ious, dices = [], []
    for c in range(5):
        p, t = ({i for i, one in enumerate(part) if one == c} for part in (predicted, truth))
        ious.append(len(p & t) / len(p | t))
        dices.append(2 * len(p & t) / (len(p) + len(t)))
    assert mean_iou(labelled(0), labelled(1), 5) == pytest.approx(sum(ious) / 5)
    assert mean_dice(labelled(0), labelled(1), 5) == pytest.approx(sum(dices) / 5)


def test_overlaps_are_averaged_over_the_classes_that_occur():
    truth = torch.tensor([0, 0, 0, 2])
    assert mean_iou(truth, truth, 9) == mean_dice(truth, truth, 9) == 1.0
    assert mean_iou(torch.zeros_like(truth), truth, 9) == pytest.approx((3 / 4 + 0) / 2)  # nothing but background
    with pytest.raises(ValueError, match=r"\(4,\) does not fit a truth of \(2,\)"):
        confusion(truth, truth[:2], 3)
    for other in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, -1, 2]), torch.full((4,), 255)):
        for pair in ((truth, other), (other, truth)):
            with pytest.raises(ValueError, match="the classes of pixels are from 0 to 2, and these are from"):
                confusion(*pair, 3)


def test_overlaps_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, truth = labelled(2).flatten(), labelled(3).flatten()
    assert mean_iou(predicted, truth, 5) == pytest.approx(metrics.jaccard_score(truth, predicted, average="macro"))
    assert mean_dice(predicted, truth, 5) == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert adjusted_rand_index(predicted, truth) == pytest.approx(metrics.adjusted_rand_score(truth, predicted))
    again = (predicted * 7 + 3) % 11  # other names of the same groups
    assert adjusted_rand_index(predicted, again) == pytest.approx(1.0)
    assert adjusted_rand_index(torch.tensor([3]), torch.tensor([5])) == metrics.adjusted_rand_score([3], [5]) == 1.0


def test_errors_of_depths():
    truth = torch.tensor([1.0, 2.0, 4.0, 5.0])
    found = depth_errors(torch.tensor([1.0, 2.2, 5.2, 5.0]), truth)
    assert found.abs_rel == pytest.approx((0.1 + 0.3) / 4)
    assert found.rmse == pytest.approx(math.sqrt((0.04 + 1.44) / 4))
    assert found.delta == 0.75
    assert depth_errors(truth, truth)[:3] == (0.0, 0.0, 1.0)
    # Off by one factor everywhere: no error that is invariant to scale. The mean as prediction: the deviation as rmse.
    assert depth_errors(3.0 * truth, truth).scale_invariant == pytest.approx(0.0, abs=1e-7)
    mean = depth_errors(truth.mean().expand(4), truth)
    assert mean.rmse == pytest.approx(float(truth.std(correction=0)))
    with pytest.raises(ValueError, match="depths are above 0, and the smallest is -1"):
        depth_errors(truth, -truth.clamp_max(1.0))


def test_connected_pixels_of_one_class_are_an_object():
    picture = torch.tensor(
        [
            [1, 1, 0, 1, 1],
            [1, 0, 0, 0, 1],
            [1, 1, 1, 1, 1],  # one object, around
            [2, 0, 2, 0, 0],  # two of another class, which touch the first and each other at a corner alone
            [0, 2, 0, 0, 2],
        ]
    )
    found = instances(torch.stack([picture, torch.ones_like(picture), torch.zeros_like(picture)]))
    first = found[0]
    assert len(first[picture == 1].unique()) == 1
    assert len(first[picture == 2].unique()) == 4
    assert sorted(first.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    assert bool((first[picture == 0] == 0).all())
    assert found[1].unique().tolist() == [1]
    assert found[2].unique().tolist() == [0]


def test_many_groups_need_no_table_of_their_pairs():
    alone = torch.arange(60_000)
    assert adjusted_rand_index(alone, alone + 5) == 1.0
    assert adjusted_rand_index(alone, alone // 2) == 0.0
    assert adjusted_rand_index(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])) == pytest.approx(0.571429)


def test_connected_pixels_equal_those_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    classes = torch.randint(3, (4, 20, 30), generator=torch.Generator().manual_seed(0))
    for one, found in zip(classes, instances(classes), strict=True):
        for label in (1, 2):
            expected, _ = ndimage.label((one == label).numpy())
            there = one == label
            assert adjusted_rand_index(found[there], torch.from_numpy(expected)[there]) == 1.0


def test_the_score_of_a_grouping():
    objects = torch.zeros(3, 4, 4, dtype=torch.int64)
    objects[0, :2, :2], objects[0, 2:, 2:], objects[1, :3] = 1, 2, 1  # the third has none
    assert grouping_score(objects * 7, objects) == 1.0
    assert grouping_score((objects > 0).long(), objects) == pytest.approx(0.5)  # 0 for the first, 1 for one object
    assert grouping_score(torch.zeros_like(objects), objects.zero_()) != grouping_score(objects, objects)  # NaN
