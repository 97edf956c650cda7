"""Updates as CUDA graphs: what is captured is what was traced. Whether a GPU does it is seen where there is one."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn

from agentlib.core.learner import cycle
from agentlib.engine import captured
from agentlib.engine.captured import Captured, replayed
from agentlib.engine.compiled import library
from agentlib.engine.tape import CannotCompile, Ref
from agentlib.engine.trace import Trace
from agentlib.engine.traced import traced
from agentlib.learners import Regressor, Update, run
from tests.test_contract import each_learner


def ready(learner_class):
    learner, source = learner_class.tiny(seed=0)
    for _ in run(learner, source, 3, compile="eager"):
        pass
    source.planned_updates = 10
    source.advance()
    learner.before_update(source.clock)
    source.fill_ticks(source.clock)
    return learner, source


def state(*modules):
    found: dict[str, torch.Tensor] = {}
    for module in modules:
        found |= {f"{type(module).__name__} {key}": value for key, value in module.state_dict().items()}
    return {key: value.clone() for key, value in found.items() if isinstance(value, torch.Tensor)}


@each_learner
def test_what_a_trace_says_is_the_update_bit_for_bit(learner_class):
    learner, source = ready(learner_class)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        trace = traced(learner, source)
        before, tensors = state(learner, source), list(trace.inputs.values())
        outputs = [[tensor.clone() for tensor in replayed(trace, tensors)] for _ in range(2)]
        after = state(learner, source)
        for key, value in before.items():  # by torch's operations, from the same state and random numbers
            _put_back(learner, source, key, value)
        torch.manual_seed(3)
        for found in outputs:
            update = cycle(learner, source)
            expected = [value for value in (*update.metrics.values(), update.per_sample) if value is not None]
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=0, atol=0)
    assert any(not torch.equal(after[key], before[key]) for key in after)
    for key, value in state(learner, source).items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, msg=key)


def _put_back(learner, source, key, value):
    kind, name = key.split(" ")
    module = next(module for module in (learner, source) if type(module).__name__ == kind)
    with torch.no_grad():
        module.state_dict()[name].copy_(value)


class Graph:
    """As torch's, but that it can be told what to do when it is replayed."""

    replays = 0
    work: Callable[[], object]

    def replay(self):
        self.work()
        self.replays += 1


def with_graphs(monkeypatch):
    """Graphs that run the trace when they are replayed, as a GPU would."""
    made = []

    def capture(trace, tensors):
        graph, places = Graph(), list[torch.Tensor]()

        def work():
            places[:] = replayed(trace, tensors)

        graph.work = work
        made.append(graph)
        return graph, places

    monkeypatch.setattr(captured, "capture", capture)
    return made


def test_a_graph_is_captured_once_and_anew_where_tensors_lie_elsewhere(monkeypatch):
    learner, source = ready(Regressor)
    plain, plain_source = deepcopy((learner, source))
    graphs = with_graphs(monkeypatch)
    monkeypatch.setattr("agentlib.engine.loop.library", Captured)
    losses = []
    for _, update in run(learner, source, 4, compile=True):
        losses.append(update.metrics["loss"])
    assert [graph.replays for graph in graphs] == [4]  # the second update is traced, too, and is the same
    expected = [update.metrics["loss"] for _, update in run(plain, plain_source, 4, compile="eager")]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0, atol=0)
    trace = traced(learner, source)
    graph = Captured(trace)
    tensors = list(trace.inputs.values())
    graph.run(tensors)
    graph.run(tensors)
    assert len(graphs) == 2
    graph.run([tensor.clone() for tensor in tensors])
    assert len(graphs) == 3


def test_what_cannot_be_captured_is_said(monkeypatch):
    learner, source = ready(Regressor)
    trace = traced(learner, source)
    tensors = list(trace.inputs.values())
    with pytest.raises(CannotCompile, match="tensors of the CPU"):
        Captured(trace).run(tensors)

    class Refusing:
        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing")

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **settings: Refusing())
    with pytest.raises(CannotCompile, match="not permitted when stream"):
        Captured(trace).run(tensors)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **settings: nullcontext())
    assert len(captured.capture(trace, tensors)[1]) == len(trace.outputs)


def test_other_devices_are_refused():
    trace = Trace([], {Ref(0): torch.zeros(1, device="meta")}, {}, Update({}), [])
    with pytest.raises(CannotCompile, match="not on meta"):
        library(trace)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_learner
def test_a_captured_update_is_the_plain_one(learner_class):
    states = []
    for compile in (True, "eager"):
        learner, source = learner_class.tiny(seed=0)
        modules: list[nn.Module] = [learner.to("cuda"), source.to("cuda")]
        for _ in run(learner, source, 40, compile=compile):
            pass
        states.append(state(*modules))
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
