"""Updates by torch's interpreter: bit for bit those of plain PyTorch, and Python where that cannot be."""

import copy

import pytest
import torch
from torch import nn

from agentlib.backbones import sgd
from agentlib.core.step import Step
from agentlib.core.trees import copied, difference
from agentlib.engine import loop
from agentlib.engine.interpreted import Interpreted
from agentlib.engine.tape import CannotCompile
from agentlib.engine.traced import CHECK_EVERY, TracedCycle
from agentlib.learners import Learner, Update, run
from tests.test_contract import LEARNERS, Line

each_learner = pytest.mark.parametrize("learner_class", LEARNERS, ids=lambda one: one.__name__)


@pytest.fixture
def programs(monkeypatch):
    """What the interpreter was given in a test."""
    made = []

    def program(trace):
        made.append(Interpreted(trace))
        return made[-1]

    monkeypatch.setattr(loop, "Interpreted", program)
    return made


def trained(make, way, updates=2 * CHECK_EVERY + 3):
    learner, source = make()
    reports = [copied(tuple(update)) for _, update in run(learner, source, updates, compile=way)]
    return [reports, copied(learner), copied(source)]


@each_learner
def test_interpreted_equals_plain_bit_for_bit(learner_class, programs):
    """Metrics, weights, optimizers, counters and random states, at each update."""
    assert difference(trained(learner_class.tiny, "eager"), trained(learner_class.tiny, False)) is None
    assert len(programs) >= 2  # the second update is traced, too


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

    def counted(self, x):
        return x.cumsum(0) / torch.arange(1, len(x) + 1, dtype=x.dtype)[:, None] + torch.full_like(x, True)


KINDS = [name for name, value in vars(Shape).items() if callable(value) and name not in ("__init__", "update")]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_of_all_kinds(kind, programs):
    """Lists, optional ones, numbers, types, formats, several results, and random numbers."""
    make = lambda: (Shape(kind), Line(0))  # noqa: E731
    assert difference(trained(make, "eager"), trained(make, False)) is None
    assert len(programs) == (0 if kind == "truths" else 2)


class Prints(Shape):
    """Python that changes from update to update: what it does cannot be left out."""

    def __init__(self):
        super().__init__("pieces")
        self.seen = 0.0

    def update(self, batch):
        update = super().update(batch)
        self.seen += float(update.metrics["loss"])
        return update


def test_what_needs_python_runs_in_python_without_a_word(programs, recwarn):
    make = lambda: (Prints(), Line(0))  # noqa: E731
    learner, source = make()
    for _ in run(learner, source, 20, compile=False):
        pass
    assert learner.seen > 0.0
    assert programs == []
    assert not recwarn.list
    assert difference(trained(make, "eager"), trained(make, False)) is None


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
    assert len(programs) == 2


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
    assert len(programs) == 2


def test_eager_calls_python_at_each_update(monkeypatch):
    monkeypatch.setattr(TracedCycle, "__call__", None)
    trained(lambda: (Shape("pieces"), Line(0)), "eager", 3)
