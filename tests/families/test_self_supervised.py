"""SimCLR from the top: what comes out of a run, and what goes on with it."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import agentlib
from agentlib.backbones import CNN, MLP
from agentlib.backbones.choice import backbone_for
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.runs.plan import job_of
from agentlib.runs.result import Result

FLOORS = {f"test/{name}{end}" for name in ("random_encoder", "pixels", "nudged_labels") for end in ("", "_1nn")}
MONITORS = {"test/spread", "test/rank", "test/uniformity", "test/alignment"}
MEASURES = {"test/probe", "test/probe_1nn"} | FLOORS | MONITORS


def features(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = encoder(x)
    return found


@pytest.mark.slow
def test_run_with_folder(tmp_path):
    result = agentlib.train("simclr", data="digits", steps=20, out=tmp_path / "run", progress=False)
    assert isinstance(result, Result)
    assert set(result.measures) == MEASURES
    assert result.measures["test/probe"] > result.measures["test/random_encoder"]
    assert set(result.references) <= set(result.measures)
    assert [path.name for path in result.pictures] == ["views.png", "probe.png"]
    assert all(path.stat().st_size > 1000 for path in result.pictures)
    # Another learner takes the pretrained network from the file.
    space = spaces.Box(0.0, 1.0, (1, 8, 8), np.float32)
    encoder = backbone_for(space, tmp_path / "run" / "backbone.safetensors")
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(features(encoder, image), features(result.backbone, image))


def test_data_with_a_test_part_of_its_own_is_judged_on_that():
    x, y = torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(120) % 2
    data = {"train": (x[:100], y[:100]), "test": (x[100:], y[100:])}
    job: Any = job_of("simclr", Problem(data=data), batch_size=16)
    assert torch.equal(job.judge.splits.test.x, x[100:])
    assert len(job.source.x) == 100
    unlabelled = job_of("simclr", Problem(data={"train": x[:100], "test": x[100:]}), batch_size=16)
    assert unlabelled.judge.finish() == []


def test_images_without_labels_and_a_network_of_ones_own():
    frames = torch.randint(0, 256, (40, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    class Bytes(nn.Module):
        feature_dim = 8

        def __init__(self) -> None:
            super().__init__()
            self.mlp = MLP(144, hidden=(8,))

        def forward(self, x):
            return self.mlp(x)

    backbone = Bytes()
    before = features(backbone, frames)
    result = agentlib.train("simclr", data=Dataset(frames), steps=3, batch_size=16, backbone=backbone, progress=False)
    assert isinstance(result, Result)
    assert result.measures == {}
    assert result.backbone is backbone
    assert not torch.equal(before, features(backbone, frames))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_backbones_by_name(name):
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = agentlib.train("simclr", data=Dataset(images), steps=1, batch_size=8, backbone=name, progress=False)
    assert isinstance(result, Result)
    assert features(result.backbone, images).shape == (40, result.backbone.feature_dim)


def test_auto_is_what_it_is_everywhere():
    """Pictures get the small CNN of all learners; the preset for digits asks for layers, which have LayerNorm."""
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = agentlib.train("simclr", data=Dataset(images), steps=1, batch_size=8, progress=False)
    assert isinstance(result, Result)
    assert isinstance(result.backbone, CNN)
    layers = agentlib.train("simclr", data=Dataset(images), steps=1, net_arch=(16, 8), batch_size=8, progress=False)
    assert isinstance(layers, Result)
    assert isinstance(layers.backbone, MLP)
    assert sum(isinstance(module, nn.LayerNorm) for module in layers.backbone.modules()) == 2


def test_few_examples_of_a_class_are_all_labelled():
    images = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = Dataset(images, torch.arange(24) % 3, ("a", "b", "c"))
    result = agentlib.train("simclr", data=data, steps=1, batch_size=8, progress=False)
    assert isinstance(result, Result)
    assert set(result.measures) == MEASURES


def test_bad_input():
    with pytest.raises(ValueError, match=r"simclr learns from images .* is \(569, 30\)"):
        agentlib.train("simclr", data="breast_cancer", progress=False)
    with pytest.raises(ValueError, match="simclr learns from single examples: choose a backbone without memory"):
        agentlib.train("simclr", data="digits", backbone="lstm", progress=False)
    with pytest.raises(ValueError, match="learns from images, not from env"):
        agentlib.train("simclr", data="digits", env="CartPole-v1", progress=False)
    with pytest.raises(ValueError, match="no hyperparameter 'temprature'; close matches: temperature"):
        agentlib.train("simclr", data="digits", temprature=0.1, progress=False)
