"""Updates by torch's interpreter: bit for bit those of plain PyTorch, and Python where that cannot be."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from agentlib.backbones import sgd
from agentlib.core.learner import cycle
from agentlib.core.step import Step
from agentlib.core.trees import copied, difference
from agentlib.engine import loop
from agentlib.engine.interpreted import Interpreted
from agentlib.engine.tape import CannotCompile
from agentlib.engine.traced import CHECK_EVERY, TracedCycle
from agentlib.learners import DQN, Learner, Regressor, Seq2Seq, Update, run
from tests.test_contract import LEARNERS, Line


@pytest.fixture
def programs(monkeypatch):
    """What the interpreter was given in a test."""
    made = []

    def program(trace):
        made.append(Interpreted(trace))
        return made[-1]

    monkeypatch.setattr(loop, "Interpreted", program)
    monkeypatch.setattr(loop, "AUTO_INTERPRET_UPDATES", 1)
    monkeypatch.setattr("agentlib.engine.stand_ins.OWN", ("agentlib", "torch", "tests"))
    return made


QUICK = (DQN, Regressor, Seq2Seq)
"""That others have the same numbers is in their contract, too; here it is seen that they were traced."""


def trained(make, way, updates=2 * CHECK_EVERY + 3):
    learner, source = make()
    reports = [copied(tuple(update)) for _, update in run(learner, source, updates, compile=way)]
    return [reports, copied(learner), copied(source)]


@pytest.mark.parametrize(
    "learner_class",
    [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow, id=one.__name__) for one in LEARNERS],
)
def test_interpreted_equals_plain_bit_for_bit(learner_class, programs, monkeypatch):
    """Metrics, weights, optimizers, counters and random states, at each update; two of them are checked on the way."""
    monkeypatch.setattr("agentlib.engine.traced.CHECK_EVERY", 4)
    eager, interpreted = (trained(learner_class.tiny, way, updates=11) for way in ("eager", False))
    assert difference(eager, interpreted) is None
    assert programs


class Shape(Learner):
    """`kind` says what stands between a layer and its loss."""

    def __init__(self, kind):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Linear(3, 4)
        self.step = Step(self.network, sgd(0.1))
        self.kind = kind
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("order_mean", torch.zeros(4))

    def update(self, batch):
        x = getattr(self, self.kind)(self.network(batch.x))
        loss = x.square().mean()
        return Update({"loss": loss.detach(), "norm": self.step(loss, batch.clock)}, x.detach().flatten())

    def pieces(self, x):
        return torch.cat([part * number for number, part in enumerate(x.split([1, 2, 1], dim=1), start=1)], dim=1)

    def chosen(self, x):
        return x[:, self.order] + x[None, :, None, 1:2].squeeze(0)[..., 0]

    def converted(self, x):
        return x.to(torch.float64).add(1.5, alpha=2).to(torch.float32).to(memory_format=torch.contiguous_format)

    def sorted_(self, x):
        values, places = x.sort(dim=1, descending=True)
        return values * (places + 1)

    def dropped(self, x):
        return torch.dropout(x, 0.5, True) + torch.randn_like(x) * torch.rand(x.shape[0], 1)

    def clamped(self, x):
        return torch.where(x > 0, x.clamp(min=0.25), x.clamp(None, -0.5)).masked_fill(x.abs() > 3, 3.0)

    def padded(self, x):
        return nn.functional.pad(x[None, None], (1, 1, 1, 1), value=0.5).unfold(2, 2, 1).amax(dim=(0, 1))

    def truths(self, x):
        """An operation that the interpreter does not have for a truth value."""
        return x * (torch.full((4,), True) & (x > 0)).add(True)

    def several(self, x):
        """An operation that returns nothing, on lists."""
        means = [self.get_buffer("mean"), self.get_buffer("order_mean")]
        torch._foreach_lerp_(means, [x.detach().mean(0), x.detach().amax(0)], 0.1)
        return x + means[0] * means[1]

    def counted(self, x):
        return x.cumsum(0) / torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None] + torch.full_like(x, True)


KINDS = [name for name, value in vars(Shape).items() if callable(value) and name not in ("__init__", "update")]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_of_all_kinds(kind, programs):
    """Lists, optional ones, numbers, types, formats, several results, and random numbers."""
    make = lambda: (Shape(kind), Line(0))  # noqa: E731
    assert difference(trained(make, "eager"), trained(make, False)) is None
    assert len(programs) == (0 if kind == "truths" else 1)


class Sums(Shape):
    """Looks at a number."""

    def update(self, batch):
        update = super().update(batch)
        self.seen = float(update.metrics["loss"])
        return update


class Counts(Shape):
    """Changes an attribute."""

    seen = 0

    def update(self, batch):
        self.seen += 1
        return super().update(batch)


class Logs(Shape):
    """Changes a list."""

    def __init__(self, kind):
        super().__init__(kind)
        self.seen: Any = []

    def update(self, batch):
        self.seen.append(len(batch.x))
        return super().update(batch)


class Files(Logs):
    """Changes a dictionary."""

    def __init__(self, kind):
        super().__init__(kind)
        self.seen = {}

    def update(self, batch):
        self.seen[len(self.seen)] = 1
        return Shape.update(self, batch)


class Hooks(Logs):
    """Has a forward hook."""

    def __init__(self, kind):
        super().__init__(kind)
        self.network.register_forward_hook(lambda *_: self.seen.append(1))

    def update(self, batch):
        return Shape.update(self, batch)


@pytest.mark.parametrize("learner_class", [Sums, Counts, Logs, Files, Hooks])
def test_what_needs_python_runs_in_python_without_a_word(learner_class, programs, recwarn):
    make = lambda: (learner_class("pieces"), Line(0))  # noqa: E731
    seen = []
    for way in (False, "eager"):
        learner, source = make()
        for _ in run(learner, source, 20, compile=way):
            pass
        seen.append(learner.seen)
    assert seen[0] == seen[1]
    assert seen[0] == {"Sums": seen[0], "Counts": 20}.get(learner_class.__name__, seen[0])
    assert learner_class in (Sums, Counts) or len(learner.seen) == 20
    assert programs == []
    assert not recwarn.list
    assert difference(trained(make, "eager"), trained(make, False)) is None


class Steps(Shape):
    """A number that `before_update` sets at each update."""

    scale = 1.0

    def before_update(self, clock):
        self.scale = 1.0 + float(clock.updates) % 7

    def update(self, batch):
        return super().update(batch._replace(x=self.scale * batch.x))


class Slices(Line):
    """A part of its data, which `advance` chooses."""

    def __init__(self):
        super().__init__(0)
        self.part, self.data = 0, torch.randn(80, 3, generator=torch.Generator().manual_seed(1))

    def advance(self):
        self.part = (self.part + 1) % 10

    def sample(self):
        batch = super().sample()
        return batch._replace(x=self.data[8 * self.part : 8 * self.part + len(batch.x)])


class Rarely(Shape):
    """A number that changes twice."""

    def before_update(self, clock):
        self.scale = 1.0 if clock.updates < 11 else 2.0 if clock.updates < 30 else 0.5

    def update(self, batch):
        return super().update(batch._replace(x=self.scale * batch.x))


@pytest.mark.parametrize(
    ("make", "is_interpreted"),
    [
        (lambda: (Steps("pieces"), Line(0)), False),
        (lambda: (Shape("pieces"), Slices()), False),
        (lambda: (Rarely("pieces"), Line(0)), True),
    ],
)
def test_numbers_that_change_outside_of_updates_are_seen_at_once(make, is_interpreted, programs, monkeypatch):
    """And where they change too often, updates stay in Python."""
    assert difference(trained(make, "eager"), trained(make, False)) is None
    calls = []

    def counted(*pair):
        calls.append(1)
        return cycle(*pair)

    monkeypatch.setattr(loop, "cycle", counted)
    trained(make, False)
    assert bool(calls) is not is_interpreted


def test_a_hook_that_comes_in_mid_run_is_called(programs):
    learner, source = Shape("pieces"), Line(0)
    seen = list[int]()
    for clock, _ in run(learner, source, 20, compile=False):
        if clock.updates == 10:
            learner.network.register_forward_hook(lambda *_: seen.append(1))
    assert len(programs) == 1
    assert len(seen) == 10


def test_an_attribute_without_effect_builds_nothing_again(programs):
    class Watched(Shape):
        def before_update(self, clock):
            self.epoch = int(clock.updates)

        def update(self, batch):
            return super().update(batch if self.epoch >= 0 else None)

    make = lambda: (Watched("pieces"), Line(0))  # noqa: E731
    assert difference(trained(make, "eager"), trained(make, False)) is None
    assert len(programs) == 1


def test_another_version_of_torch_runs_in_python(programs, monkeypatch, recwarn):
    monkeypatch.setattr("agentlib.engine.torch_private.TESTED", ("0.1",))
    make = lambda: (Shape("pieces"), Line(0))  # noqa: E731
    assert difference(trained(make, "eager"), trained(make, False)) is None
    assert programs == []
    assert not recwarn.list


def test_short_calls_stay_in_python(monkeypatch):
    monkeypatch.setattr(TracedCycle, "__call__", None)
    trained(lambda: (Shape("pieces"), Line(0)), False, loop.AUTO_INTERPRET_UPDATES - 1)


@pytest.mark.parametrize("foreign", ["learner", "source", "network", "function"])
def test_what_is_not_our_own_runs_in_python(foreign, programs, monkeypatch):
    """It may do in Python what a trace leaves out: here, a number that changes where nobody looks."""
    monkeypatch.setattr("agentlib.engine.stand_ins.OWN", ("agentlib", "torch"))
    steps = {"n": 0.0}

    def scaled(x):
        steps["n"] += 1.0
        return x * (1.0 if steps["n"] < 9 else 2.0)

    class Network(nn.Linear):
        def forward(self, x):
            return super().forward(scaled(x))

    def make():
        steps["n"] = 0.0
        learner, source = Regressor.tiny(seed=0)
        if foreign == "network":
            learner.policy.backbone = nn.Sequential(Network(1, 16))
        return learner, source

    if foreign in ("learner", "source"):
        make = lambda: (Shape("pieces"), Line(0))  # noqa: E731
    elif foreign == "function":
        plain = make

        def make():
            learner, source = plain()
            learner.loss = scaled
            return learner, source

    trained(make, False)
    assert programs == []


def test_a_large_update_stays_in_python(programs, monkeypatch):
    """Tracing it would keep all that it makes in memory at once, and nothing is gained."""
    monkeypatch.setattr(loop, "MOST_BYTES", 1_000)
    make = lambda: (Shape("pieces"), Line(0))  # noqa: E731
    assert difference(trained(make, "eager"), trained(make, False)) is None
    assert programs == []


def test_under_autocast_and_inference_mode_of_the_host(programs):
    learner = Shape("clamped"), Line(0)
    make = lambda: copy.deepcopy(learner)  # noqa: E731
    own = make()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = trained(lambda: own, False)
    assert difference(trained(make, "eager"), inside) is None
    assert len(programs) == 1


def test_the_interpreter_is_left_as_the_host_has_it(programs):
    before = torch._C._get_graph_executor_optimize()
    trained(lambda: (Shape("pieces"), Line(0)), False, 3)
    assert torch._C._get_graph_executor_optimize() == before


def test_a_failing_compiler_leaves_the_interpreter(programs, monkeypatch):
    def fails(trace):
        raise CannotCompile("it could not be built: no such compiler")

    monkeypatch.setattr(loop, "library", fails)
    make = lambda: (Shape("pieces"), Line(0))  # noqa: E731
    with pytest.warns(UserWarning, match="uncompiled and slower: it could not be built"):
        found = trained(make, "try")
    assert difference(trained(make, "eager"), found) is None
    assert len(programs) == 1


def test_eager_calls_python_at_each_update(monkeypatch):
    monkeypatch.setattr(TracedCycle, "__call__", None)
    trained(lambda: (Shape("pieces"), Line(0)), "eager", 3)
