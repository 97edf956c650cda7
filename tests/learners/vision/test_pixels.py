"""The rules of segmentation and depth, and short runs from the shell."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib.data import Dataset, shape_scenes
from agentlib.learners.vision.depth import depth_losses
from agentlib.learners.vision.segmentation import dice_loss
from agentlib.metrics.masks import mean_dice
from agentlib.runs.models import load_model
from agentlib.shell.main import main

PICTURES = {"segmentation": "masks", "depth": "depth", "detection": "boxes", "localization": "boxes"}


def test_dice_of_certain_predictions_is_that_of_sets():
    generator = torch.Generator().manual_seed(0)
    predicted, truth = torch.randint(3, (2, 4, 16, 16), generator=generator)
    logits = 50.0 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    assert float(dice_loss(logits, truth)) == pytest.approx(1.0 - mean_dice(predicted, truth, 3), abs=2e-3)
    assert float(dice_loss(50.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float(), truth)) == 0.0
    # Of no idea, p = 1/K everywhere: 2 (n_c/K) / (n/K + n_c).
    counts = truth.flatten().bincount(minlength=3) / truth.numel()
    expected = float((2 * counts / 3 / (1 / 3 + counts)).mean())
    assert float(dice_loss(torch.zeros_like(logits), truth)) == pytest.approx(1.0 - expected, abs=1e-3)


def test_the_depth_loss_sees_a_common_factor_only_in_its_first_term():
    truth = shape_scenes(3, size=16).known("depth")
    exact = depth_losses(truth.log(), truth, variance=1.0)
    torch.testing.assert_close(exact, torch.zeros(3))
    doubled = depth_losses((2.0 * truth).log(), truth, variance=1.0)
    torch.testing.assert_close(doubled, torch.full((3,), math.log(2.0)))
    half = torch.where(torch.arange(16) < 8, 0.3, -0.3)
    torch.testing.assert_close(depth_losses(truth.log() + half, truth, 2.0), torch.full((3,), 0.3 + 2.0 * 0.09))


MEASURES = {"segmentation": "mean_iou", "depth": "abs_rel", "detection": "map_50", "localization": "map_50"}


@pytest.mark.slow
@pytest.mark.parametrize(("what", "measure"), MEASURES.items())
def test_a_run_from_scenes(what, measure, tmp_path, capsys):
    small: Any = {"net_arch": (8, 8), "batch_size": 4, "progress": False}
    result: Any = agentlib.train(what, data=shape_scenes(40, size=16), steps=3, out=tmp_path / "run", **small)
    assert result.judged[0].name == f"test/{measure}"
    assert result.judged[0].reference is not None
    (picture,) = result.pictures
    assert picture.name == f"{PICTURES[what]}.png"
    model, _ = load_model(tmp_path / "run")
    images = shape_scenes(2, seed=5, size=16).images
    assert torch.equal(model.answer(images), result.model.answer(images))  # type: ignore[operator]
    np.savez(tmp_path / "x.npz", x=images.numpy())
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "x.npz"), "--out", str(tmp_path / "y.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("example 0: ")
    with np.load(tmp_path / "y.npz") as file:
        assert len(file["prediction"]) == 2
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("L", (30, 20)).save(tmp_path / "grey.png")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "grey.png")]) == 0
    assert capsys.readouterr().out.startswith("grey.png: ")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "x.npz"), "--out", str(tmp_path / "y.png")]) == 0
    assert capsys.readouterr().out.endswith("y.png: 2 of 2 pictures\n")
    with pillow.open(tmp_path / "y.png") as drawn:
        assert min(drawn.size) > 200


def test_scenes_without_the_part_that_is_learned():
    with pytest.raises(ValueError, match="these scenes have no depth"):
        agentlib.train("depth", data="digits", steps=1, progress=False)
    with pytest.raises(ValueError, match="two on a canvas are square images"):
        agentlib.train("segmentation", data=Dataset(torch.rand(60, 3), torch.arange(60) % 2, ("a", "b")), steps=1)
    with pytest.raises(ValueError, match="needs a network with maps of the image"):
        agentlib.train("segmentation", data=shape_scenes(40, size=16), steps=1, backbone="mlp", progress=False)
