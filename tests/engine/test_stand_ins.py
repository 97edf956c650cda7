"""An update is traced on stand-ins: the modules themselves are left alone, and what is read of them is known."""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import adam
from agentlib.core import Learner, Step, Update
from agentlib.core.trees import copied, difference
from agentlib.engine import loop, run
from agentlib.engine.captured import replayed
from agentlib.engine.stand_ins import LONGEST, StandIns
from agentlib.engine.tape import CannotCompile
from agentlib.engine.traced import CHECK_EVERY, traced
from tests.engine.draws import Draws


class Scaled(Learner):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Linear(3, 1)
        self.step = Step(self.network, adam(0.01))
        self.scale = 1.0

    def factor(self):
        return self.scale

    def update(self, batch):
        loss = (self.factor() * self.network(batch.x) - 1.0).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "factor": self.factor() * torch.ones(())})


class Replayed:
    """What is compiled, but by torch's operations, one by one."""

    def __init__(self, trace):
        self.trace = trace

    def run(self, inputs):
        return [output.clone() for output in replayed(self.trace, inputs)]


@pytest.fixture
def traces(monkeypatch):
    """The traces of runs, which are not compiled."""
    made = []

    def library(trace):
        made.append(trace)
        return Replayed(trace)

    monkeypatch.setattr(loop, "library", library)
    return made


def trained(learner, source, updates, compile):
    for _ in run(learner, source, updates, compile=compile):
        pass
    return [copied(module) for module in (learner, source)]


def test_a_module_keeps_its_class_and_what_other_threads_set():
    class Watched(Scaled):
        seen: Any = None

        def update(self, batch):
            kinds: list[Any] = []

            def other_thread():
                kinds.extend(type(module) for module in learner.modules())
                learner.flag = 3  # type: ignore[assignment]
                learner.scale = 2.0

            thread = threading.Thread(target=other_thread)
            thread.start()
            thread.join()
            found.extend(kinds)
            return super().update(batch)

    found: list[Any] = []
    learner, source = Watched(), Draws()
    kinds = [type(module) for module in learner.modules()]
    traced(learner, source)
    assert found == kinds == [type(module) for module in learner.modules()]
    assert learner.flag == 3
    assert learner.scale == 2.0


class Factor(nn.Module):
    scale = 1.0

    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def forward(self):
        return self.scale


@dataclass(frozen=True)
class Holder:
    module: Factor


class Pair(NamedTuple):
    module: Factor
    other: int


def in_a_closure(factor):
    return lambda: factor()


def in_a_default(factor):
    return lambda factor=factor: factor()


HELD = {
    "child": (lambda factor: factor, lambda held: held()),
    "list": (lambda factor: [1, [factor]], lambda held: held[1][0]()),
    "named tuple": (lambda factor: Pair(factor, 1), lambda held: held.module()),
    "deque": (lambda factor: deque([factor], 3), lambda held: held[0]()),
    "dict": (lambda factor: OrderedDict(a={"b": factor}), lambda held: held["a"]["b"]()),
    "dataclass": (Holder, lambda held: held.module()),
    "method": (lambda factor: factor.forward, lambda held: held()),
    "partial": (lambda factor: partial(Factor.forward, factor), lambda held: held()),
    "closure": (in_a_closure, lambda held: held()),
    "default": (in_a_default, lambda held: held()),
}


class Holds(Scaled):
    def __init__(self, kind):
        super().__init__()
        self.inner = Factor()
        hold, self.use = HELD[kind]
        self.held = hold(self.inner)

    def factor(self):
        return self.use(self.held)


@pytest.mark.parametrize("kind", HELD)
def test_what_is_read_of_a_module_is_known_however_it_is_held(kind, traces):
    learner = Holds(kind)
    assert [read.value for read in traced(learner, Draws()).reads if read[:2] == (learner.inner, "scale")] == [1.0]
    factors = []
    for clock, update in run(learner, Draws(), 3 * CHECK_EVERY, compile=True):
        factors.append(float(update.metrics["factor"]))
        if clock.updates == CHECK_EVERY:
            learner.inner.scale = 100.0
    assert set(factors[:CHECK_EVERY]) == {1.0}
    assert set(factors[2 * CHECK_EVERY :]) == {100.0}


def test_only_what_leads_to_a_module_is_copied():
    learner = Holds("list")
    shared = [
        [1.0],
        {"a": torch.ones(2)},
        deque([1]),
        learner.step.rule,
        object(),
        Holder,
        len,
        [learner] * (LONGEST + 1),
    ]
    stand_ins = StandIns()
    assert all(stand_ins.of(value) is value for value in shared)
    copy = stand_ins.of(learner)
    assert copy is not learner
    assert isinstance(copy, Holds)
    assert copy.held[1][0] is copy.inner is not learner.inner
    assert copy.step.rule is learner.step.rule
    assert all(one is other for one, other in zip(copy.parameters(), learner.parameters(), strict=True))
    assert stand_ins.of(learner) is copy


class Collects(Scaled):
    """Much in it changes from update to update, and nothing of it is read in updates."""

    def __init__(self):
        super().__init__()
        self.count, self.recent, self.words = 0, deque[int](maxlen=5), list[str]()

    def before_update(self, clock):
        self.count += 1
        self.recent.append(self.count)
        self.words = [*self.words, "x"]
        self.last = clock


def test_what_is_not_read_is_no_reason_to_trace_again(traces):
    trained(Collects(), Draws(), 4 * CHECK_EVERY, True)
    assert len(traces) == 1


class Thresholds(Scaled):
    """Changes at each update are of effect from a certain number on."""

    def before_update(self, clock):
        self.epoch = int(clock.updates)

    def factor(self):
        return 1.0 if self.epoch < 5 * CHECK_EVERY // 2 else 100.0


def test_a_number_that_is_read_may_change_without_effect_and_then_be_of_effect(traces, monkeypatch):
    """Traces that do not differ are not counted."""
    monkeypatch.setattr("agentlib.engine.traced.MOST_TRACES", 2)
    updates = run(Thresholds(), Draws(), 4 * CHECK_EVERY, compile=True)
    factors = [float(update.metrics["factor"]) for _, update in updates]
    assert set(factors[: 2 * CHECK_EVERY]) == {1.0}
    assert set(factors[3 * CHECK_EVERY :]) == {100.0}


class Rotates(Scaled):
    """Tensors change places, and a new one comes in."""

    now: Tensor
    before: Tensor
    long_before: Tensor

    def __init__(self):
        super().__init__()
        for name in ("now", "before", "long_before"):
            self.register_buffer(name, torch.randn(3, generator=torch.Generator().manual_seed(1)))

    def update(self, batch):
        self.long_before, self.before, self.now = self.before, self.now, batch.x[0] * 1.0
        return super().update(batch._replace(x=batch.x + self.before - self.long_before))


class Swaps(Rotates):
    def update(self, batch):
        self.now, self.before = self.before + 1.0, self.now
        self.before, self.long_before = self.long_before, self.before
        return Scaled.update(self, batch._replace(x=batch.x + self.before))


@pytest.mark.parametrize("learner_class", [Rotates, Swaps])
def test_tensors_that_change_places(learner_class, traces):
    one, other = (trained(learner_class(), Draws(), 5, way) for way in (True, "eager"))
    assert difference(one, other) is None


class Deletes(Scaled):
    def update(self, batch):
        del self.scale
        self.factor = lambda: 1.0  # type: ignore[method-assign]
        return super().update(batch)


class Appends(Holds):
    def __init__(self, kind="list"):
        super().__init__(kind)

    def update(self, batch):
        self.held.append(2)
        return super().update(batch)


class Exchanges(Scaled):
    def update(self, batch):
        self.network = nn.Linear(3, 1)
        return super().update(batch)


@pytest.mark.parametrize(
    ("learner_class", "message"), [(Deletes, "Deletes.scale|factor"), (Appends, "a list"), (Exchanges, "a dict")]
)
def test_other_changes_cannot_be_compiled(learner_class, message):
    learner = learner_class()
    before = dict(learner.__dict__)
    with pytest.raises(CannotCompile, match=f"update changes .*({message})"):
        traced(learner, Draws())
    assert learner.__dict__ == before


class Closes(Scaled):
    closed = 0

    def __del__(self):
        type(self).closed += 1


def test_a_stand_in_closes_nothing():
    learner = Closes()
    traced(learner, Draws())
    assert Closes.closed == 0
