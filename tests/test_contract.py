"""Every learner keeps the contract, and the contract's test finds what breaks it.

L = E[(w x - y)^2]                                     (Legendre 1805)
"""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from agentlib import catalog
from agentlib.backbones import sgd
from agentlib.catalog import recipe_of
from agentlib.core import Clock, Learner, Step, Target, Update
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.source import Source
from agentlib.engine.compiled import compiler_found
from agentlib.runs.plan import settings_of
from agentlib.testing import _Contract, check_learner
from tests.test_every_learner import origins

RECIPES = {name: recipe_of(name) for name in catalog.LEARNERS}
LEARNERS = list(dict.fromkeys(recipe.learner for recipe in RECIPES.values()))
needs_compiler = pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")


@pytest.mark.parametrize("name", RECIPES)
def test_the_catalog_says_what_the_recipe_says(name):
    assert (RECIPES[name].name, RECIPES[name].summary) == (name, catalog.LEARNERS[name][1])


def test_learners_are_attributes_of_their_package():
    import agentlib.learners

    for recipe in RECIPES.values():
        assert getattr(agentlib.learners, recipe.learner.__name__) is recipe.learner
        assert getattr(agentlib.learners, recipe.config.__name__) is recipe.config
    assert {"DQN", "DQNConfig", "BC", "DAggerConfig", "Learner", "run"} <= set(dir(agentlib.learners))
    with pytest.raises(AttributeError, match="no attribute 'DQNN'"):
        agentlib.learners.DQNN  # noqa: B018


def one_of_each_family(mark: Any) -> Any:
    """All learners, as a parameter of a test: one of each family, and what has changed, as it is, others marked."""
    command = ["git", "diff", "--name-only", "HEAD~1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    changed = set(done.stdout.split())  # nothing outside of a repository
    families, found = set[Any](), []
    for recipe in {recipe.learner: recipe for recipe in reversed(RECIPES.values())}.values():
        file = "/".join(recipe.learner.__module__.split(".")) + ".py"
        is_needed = recipe.family.assemble not in families or file in changed
        families.add(recipe.family.assemble)
        found.append(pytest.param(recipe.learner, marks=() if is_needed else mark))
    return pytest.mark.parametrize("learner_class", found, ids=lambda one: one.__name__)


each_learner = one_of_each_family(pytest.mark.slow)


@each_learner
def test_contract(learner_class):
    check_learner(learner_class)


SMALL: dict[str, Any] = {
    **{"learning_rate": 3e-3, "learning_starts": 64, "buffer_size": 500, "batch_size": 16},
    **{"net_arch": (16, 16), "qf_arch": (16, 16), "rollout_round_min_timesteps": 50},
}
"""For configs that have such a field."""
VARIANTS: dict[str, dict[str, Any]] = {
    **{"tqc": {}, "droq": {"policy_delay": 2, "gradient_steps": 2}, "crossq": {}, "ddpg": {}, "td3_bc": {}},
    **{"rainbow": {}, "cql": {}, "a2c": {"n_steps": 32}, "dagger": {"rollout_round_min_episodes": 1}},
    "t5": {"embed_dim": 16, "n_layers": 1, "n_heads": 2, "max_length": 16, "dropout": 0.0},
    "reptile": {"loss": "cross_entropy", "held_out": 0.5, "ways": 2, "shots": 1, "queries": 2, "inner_steps": 2},
    "matching": {"ways": 2, "held_out": 0.5, "queries": 2, "batch_size": 4},
}
"""Recipes whose learner has the `tiny()` of another one, and what else is small in them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_contract_of_what_is_another_learner_by_its_numbers(name):
    recipe = RECIPES[name]
    small = {field: value for field, value in SMALL.items() if field in recipe.config.__dataclass_fields__}
    config = settings_of(name, None, small | VARIANTS[name]).config

    class Variant(recipe.learner):  # type: ignore[name-defined]
        @classmethod
        def tiny(cls, seed=0):
            return recipe.tiny(cls, config, seed, **origins(name))

    check_learner(Variant)


def test_every_recipe_is_under_the_contract():
    own = {next(name for name, recipe in RECIPES.items() if recipe.learner is learner) for learner in LEARNERS}
    assert {*own, *VARIANTS} == set(RECIPES)


@pytest.mark.slow
@needs_compiler
@one_of_each_family(pytest.mark.thorough)
def test_contract_compiled(learner_class):
    check_learner(learner_class, compile=True)


# A learner that keeps the contract, and many that break one point of it ----------------------------------------------


class Points(NamedTuple):
    x: Tensor
    y: Tensor
    clock: Clock


class Line(Source):
    """y = x summed, plus noise."""

    def sample(self) -> Points:
        x = torch.randn(8, 3, device=self.ticks.device)
        return Points(x, x.sum(1) + 0.1 * torch.randn_like(x[:, 0]), self.batch_clock)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoodConfig:
    learning_rate: float = 0.05
    """Step size."""
    momentum: float = 0.9
    """Of the step."""


class Good(Learner):
    config_class: Any = GoodConfig
    source_class: Any = Line

    def __init__(self) -> None:
        super().__init__()
        self.config = self.config_class()
        self.network = nn.Linear(3, 1)
        self.target: Any = Target(self.network)
        self.step = Step(self.network, sgd(self.config.learning_rate, self.config.momentum))
        self.prepare()

    def prepare(self) -> None:
        pass

    def loss(self, batch: Points) -> Tensor:
        return (self.network(batch.x)[:, 0] - batch.y).square().mean()

    def update(self, batch: Points) -> Update:
        loss = self.loss(batch)
        self.step(loss, batch.clock)
        self.target.follow(0.1)
        return Update({"loss": loss.detach()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Learner, Source]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(), cls.source_class(seed)


def test_a_good_learner_passes_and_leaves_the_caller_alone():
    before = torch.get_rng_state()
    check_learner(Good, devices=["cpu"])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


class NotDetached(Good):
    def update(self, batch):
        super().update(batch)
        return Update({"loss": self.loss(batch)})


class NotFinite(Good):
    def update(self, batch):
        return Update({**super().update(batch).metrics, "ratio": torch.tensor(0.0) / 0.0})


class NoTensor(Good):
    def update(self, batch):
        return Update({"loss": super().update(batch).metrics["loss"].item()})  # type: ignore[dict-item]


class WrongShape(Good):
    def update(self, batch):
        return Update({"loss": super().update(batch).metrics["loss"][None]})


class NoUpdate(Good):
    def update(self, batch):
        return super().update(batch).metrics


class OnTheCPU(Good):
    """Works on the CPU alone: a tensor is made there, whatever the device of the batch."""

    def loss(self, batch):
        return super().loss(batch) + (torch.arange(8.0) * 0.0 * batch.y).sum()


class CPULine(Line):
    def sample(self):
        x = torch.randn(8, 3)
        return Points(x, x.sum(1), self.batch_clock)


class CPUSource(Good):
    source_class = CPULine


class TargetWithGradients(Good):
    def prepare(self):
        self.target.requires_grad_(True)


class ForgottenNetwork(Good):
    def prepare(self):
        self.head = nn.Linear(1, 1)


class TrainableCopy(Good):
    def prepare(self):
        self.target = copy.deepcopy(self.network)

    def update(self, batch):
        loss = self.loss(batch) + 0.1 * self.target(batch.x).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()})


class FrozenWithGradient(Good):
    def update(self, batch):
        for parameter in self.target.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return super().update(batch)


class Uphill(Good):
    def update(self, batch):
        loss = self.loss(batch)
        self.step(-0.01 * loss, batch.clock)
        return Update({"loss": loss.detach()})


class NoLoss(Good):
    def update(self, batch):
        return Update({"error": super().update(batch).metrics["loss"]})


class ForgetfulSource(Line):
    """Its place in the data is in no state."""

    place = 0

    def advance(self):
        self.place += 1

    def sample(self):
        batch = super().sample()
        return batch._replace(y=batch.y + self.place)


class SourceForgets(Good):
    source_class = ForgetfulSource


class LateBuffer(Good):
    def update(self, batch):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", torch.zeros(()))
        return super().update(batch)


class IgnoresSeed(Good):
    @classmethod
    def tiny(cls, seed=0):
        return super().tiny(0)


class DefaultGenerator(Good):
    @classmethod
    def tiny(cls, seed=0):
        return cls(), cls.source_class(seed)


class DrawsWhileAdvancing(Line):
    shift: Any

    def advance(self):
        self.shift = torch.rand(())

    def sample(self):
        batch = super().sample()
        return batch._replace(y=batch.y + self.shift)


class SourceDrawsFromTheCaller(Good):
    source_class = DrawsWhileAdvancing


class Counter(Good):
    count = 0

    def before_update(self, clock):
        self.count += 1
        if self.count % 1000 == 0:  # long after the next update
            self.target.follow()


class HiddenStep(Good):
    def prepare(self):
        del self.step
        self.steps = [Step(self.network, sgd(0.05, momentum=0.9))]

    @property
    def step(self):
        return self.steps[0]

    @step.setter
    def step(self, value):
        pass

    @step.deleter
    def step(self):
        self._modules.pop("step")


class UnsavedTensor(Good):
    def prepare(self):
        self.center: Any = torch.zeros(())

    def update(self, batch):
        self.center = 0.9 * self.center + 0.1 * batch.y.mean()
        return super().update(batch)


class UnsavedBuffer(Good):
    def prepare(self):
        self.register_buffer("average", torch.zeros(()), persistent=False)

    def update(self, batch):
        self.get_buffer("average").lerp_(batch.y.mean(), 0.1)
        return super().update(batch)


class OtherWhenCompiled(Good):
    """Sees that it is traced."""

    def loss(self, batch):
        return super().loss(batch) * (1.0 if type(self) is OtherWhenCompiled else 2.0)


class NotFixed(Good):
    def update(self, batch):
        return super().update(batch._replace(x=batch.x / batch.x.max().item()))


@dataclasses.dataclass(frozen=True)
class FunctionConfig(GoodConfig):
    anneal: Any = abs


@dataclasses.dataclass
class OpenConfig:
    learning_rate: float = 0.05
    momentum: float = 0.9


@dataclasses.dataclass(frozen=True)
class ListConfig(GoodConfig):
    hidden: tuple[str, ...] = (1, 2)  # type: ignore[assignment]


class NotJson(Good):
    config_class = FunctionConfig


class NotFrozen(Good):
    config_class = OpenConfig


class WronglyTyped(Good):
    config_class = ListConfig


class ChangesInEval(Good):
    def train(self, mode=True):
        if not mode:
            with torch.no_grad():
                self.network.bias.mul_(0.5)
        return super().train(mode)


BROKEN = [
    (NotDetached, 1, "loss is not detached"),
    (NotFinite, 1, "ratio is nan"),
    (NoTensor, 1, "loss is a float"),
    (WrongShape, 1, r"shape \(1,\)"),
    (NoUpdate, 1, "returned a dict"),
    (TargetWithGradients, 2, "target target require"),
    (TrainableCopy, 2, "target did not move"),
    (ForgottenNetwork, 2, "head did not move"),
    (FrozenWithGradient, 2, "target.network.weight is frozen"),
    (Uphill, 3, "loss went from"),
    (NoLoss, 3, "only error"),
    (SourceForgets, 4, "in the next updates"),
    (LateBuffer, 4, "mean"),
    (IgnoresSeed, 5, "two seeds gave the same"),
    (DefaultGenerator, 5, "in two runs with one seed"),
    (SourceDrawsFromTheCaller, 5, "in two runs with one seed"),
    (Counter, 6, "count changes"),
    (HiddenStep, 6, "steps changes"),
    (UnsavedTensor, 6, "center changes"),
    (UnsavedBuffer, 6, "average changes"),
    (OnTheCPU, 7, "same device"),
    (CPUSource, 7, "same device"),
    (NotJson, 8, "anneal"),
    (NotFrozen, 8, "not frozen"),
    (WronglyTyped, 8, r"hidden\[0\]"),
    (ChangesInEval, 9, "network.weight"),
]


@pytest.mark.parametrize(("learner_class", "point", "message"), BROKEN, ids=lambda one: getattr(one, "__name__", None))
def test_what_is_broken_is_found(learner_class, point, message):
    with pytest.raises(AssertionError, match=rf"(?s){learner_class.__name__}, point {point} .*({message})"):
        check_learner(learner_class)


@pytest.mark.slow
@needs_compiler
def test_a_graph_that_does_something_else_is_found():
    check_learner(Good, compile=True)
    with pytest.raises(AssertionError, match="point 7"):
        check_learner(OtherWhenCompiled, compile=True)
    with pytest.raises(AssertionError, match=r"(?s)point 7.*looks at the numbers of a tensor.*item"):
        check_learner(NotFixed, compile=True)


def test_docstring(monkeypatch):
    for docstring, message in (
        ("Fits a line (Legendre 1805).", "formula"),
        ("Fits a line.\n\n    L = (w x - y)^2\n", "names no paper"),
        (None, "formula"),
    ):
        monkeypatch.setattr(sys.modules[__name__], "__doc__", docstring)
        with pytest.raises(AssertionError, match=f"point 10 .*{message}"):
            _Contract(Good).check_docstring()
    with pytest.raises(AssertionError, match=r"point 10 .*formula"):
        check_learner(Good)
    # A learner in a script has its formula where it likes.
    monkeypatch.setattr(Good, "__doc__", "    L = (w x - y)^2   (Legendre 1805)")
    check_learner(Good)


def test_no_tiny():
    with pytest.raises(AssertionError, match="tiny"):
        check_learner(Learner)


# Configs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_configs_survive_json_with_each_preset(name):
    recipe = RECIPES[name]
    for preset in ({}, *recipe.presets.values()):
        values = {field: value for field, value in preset.items() if field not in ("steps", "n_envs")}
        config = recipe.config(**values)
        assert config_from_json(recipe.config, json.loads(json.dumps(config_to_json(config)))) == config
