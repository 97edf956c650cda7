"""A recipe whose parts do not fit says which part, and what it should be."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import CNN, MLP, NatureCNN, Optimized
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core import Learner, Recipe, Update
from agentlib.core.recipe import Problem, gains_from_threads
from agentlib.engine import run
from agentlib.families.captions import on_captions
from agentlib.families.examples import on_examples
from agentlib.families.scenes import on_scenes
from agentlib.families.views import on_views
from agentlib.learners.supervised.classifier import RECIPE, Classifier, ClassifierConfig
from agentlib.learners.supervised.regressor import Regressor, RegressorConfig
from agentlib.runs.plan import job_of


@dataclass(frozen=True, kw_only=True)
class NoBatch:
    rate: float = 0.1

    def optimizer(self) -> Any:
        return None


@dataclass(frozen=True, kw_only=True)
class NoDefault(Optimized):
    rate: float


@dataclass(frozen=True, kw_only=True)
class Seeded(Optimized):
    seed: int = 0


@dataclass
class Thawed:
    rate: float = 0.1


class NoBuild(Learner):
    def update(self, batch):
        return Update({})


class StaticBuild(NoBuild):
    @staticmethod
    def build(backbone, config, facts):
        return NoBuild()


class NoPredict(NoBuild):
    @classmethod
    def build(cls, backbone, config, facts):
        return cls()


class NoUpdate(Learner):
    @classmethod
    def build(cls, backbone, config, facts):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("name", "", "name must be a string"),
        ("learner", 3, "learner must be a class that inherits from"),
        ("learner", NoBuild, r"class method build\(backbone, config, facts\)"),
        ("learner", StaticBuild, r"class method build\(backbone, config, facts\)"),
        ("learner", NoPredict, "with the method predict"),
        ("learner", NoUpdate, r"with the method update\(batch\)"),
        ("config", Thawed, "frozen=True"),
        ("config", {}, "frozen=True"),
        ("config", NoBatch, "a dataclass with batch_size"),
        ("config", NoDefault, "a default for rate"),
        ("config", Seeded, "without the field seed, an option of every run"),
        ("family", print, "family must be one of agentlib.families"),
        ("summary", None, "summary must be a string"),
        ("steps", 0, "steps must be a whole number from 1"),
        ("presets", None, "presets must be a dictionary"),
        ("sb3", "DQN", "sb3 must be a Counterpart"),
    ],
)
def test_parts_that_do_not_fit(part, value, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **{part: value})


def test_a_learner_in_a_family_that_is_not_its_own():
    with pytest.raises(ValueError, match=r"config must be a dataclass with augmentation"):
        Recipe("mine", Regressor, RegressorConfig, on_views, "")
    assert Recipe("mine", Classifier, ClassifierConfig, on_examples, "").family is on_examples


def test_a_build_that_returns_something_else():
    class Odd(Classifier):
        @classmethod
        def build(cls, backbone, config, facts):
            return 3

    with pytest.raises(TypeError, match=r"Odd\.build must return a learner, not a int"):
        agentlib.train(replace(RECIPE, learner=Odd), data="digits", steps=1, progress=False)


@pytest.mark.parametrize("name", [name for name in LEARNERS if recipe_of(name).family.needs == ("data",)])
def test_a_backbone_of_float64_is_trained_in_float32(name):
    others = ("regressor", "diffusion", "maml", "reptile", "black_box", "gpt", "seq2seq", "t5", "bert", "elmo", "mae")
    if name in (*others, "continual", "cyclegan", "pixel_cnn") or recipe_of(name).family in (on_scenes, on_captions):
        pytest.skip("takes other examples, another network or more steps")
    problem = Problem(data="digits", backbone=MLP(64, (16,)).double(), steps=1, device="cpu")
    job = job_of(name, problem)
    list(run(job.learner, job.source, 1, compile=False))
    assert all(p.dtype == torch.float32 for p in job.learner.parameters())


@pytest.mark.parametrize(
    ("network", "gains"),
    [
        (CNN((1, 8, 8)), False),  # digits: on two threads of a busy machine eight times the processor's time of one
        (CNN((1, 16, 16)), False),
        (MLP(4), False),
        (NatureCNN((1, 36, 36)), True),
        (MLP(1_100, (1_000,)), True),
        (nn.Conv2d(1, 2, 3), True),  # of images whose size is not known
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_large_networks_have_several_threads(network, gains):
    assert gains_from_threads(network) is gains
