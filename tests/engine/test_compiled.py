"""Compiled runs do what plain ones do, and say so where they cannot."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import CNN, ResNet, UNet, adam, sgd
from agentlib.core import Learner, Step, Update
from agentlib.core.randomness import fresh_weights
from agentlib.core.trees import copied, difference
from agentlib.data import Batches, Dataset
from agentlib.engine import loop, run, torch_private
from agentlib.engine.compiled import compiler_found
from agentlib.engine.tape import CannotCompile, Ref
from agentlib.engine.traced import CHECK_EVERY, MOST_TRACES, traced
from agentlib.learners import DQN, GAN, Classifier, ClassifierConfig, Diffusion
from agentlib.policies import CategoricalPolicy
from tests.engine.draws import Draws, Noise

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")


class Scaled(Learner):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Linear(3, 1)
        self.step = Step(self.network, adam(0.01))
        self.scale = 1.0

    def update(self, batch):
        loss = (self.scale * self.network(batch.x) - 1.0).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()})


def trained(learner, source, updates, compile):
    for _ in run(learner, source, updates, compile=compile):
        pass
    return learner


def equal(one, other):
    """All of the state, counters of the optimizer included."""
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def state_of(*modules):
    return [copied(module) for module in modules], torch.get_rng_state()


@pytest.mark.slow
@needs_compiler
def test_convolutions_of_one_channel_and_of_one_pixel():
    """Where a size is 1, the order in memory that an operation reads off the strides is not the compiler's."""
    images = torch.rand(64, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    data = Dataset(images, torch.arange(64) % 10, tuple("0123456789"))
    config = ClassifierConfig(learning_rate=1e-3)

    def classifier(compile):
        with fresh_weights(0):
            layers = ((8, 4, 2, 1), (1, 3, 1, 1), (8, 4, 1, 0), (8, 1, 1, 0))  # the last reads one pixel
            policy = CategoricalPolicy(CNN((1, 9, 9), layers, feature_dim=16, norm="none"), 10)
        return trained(Classifier(policy, config.optimizer(), config), Batches(data, 32, seed=0), 5, compile)

    equal(classifier(True), classifier("eager"))


class Fitted(Learner):
    """A network whose outputs, weighed by their places, fit a number: a place that is mixed up changes all."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.step = Step(network, sgd(2e-3))

    def update(self, batch):
        output = self.network(batch.x)
        heights = (output * torch.linspace(-1.0, 1.0, output[0].numel()).view_as(output[0])).flatten(1).sum(1)
        norm = self.step((heights - batch.y).square().mean(), batch.clock)
        return Update({"grad_norm": norm}, heights.detach())


NARROW = {
    "resnet to one pixel": lambda: ResNet((1, 8, 8), (1, 1, 1, 1), 2, stem="small", norm="none"),
    "unet": lambda: UNet((1, 8, 8), 1, (1, 2, 4), norm="none", activation="relu"),
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", NARROW)
def test_backbones_of_one_channel(name):
    generator = torch.Generator().manual_seed(0)
    data = Dataset(torch.rand(64, 1, 8, 8, generator=generator), torch.rand(64, generator=generator))

    def fitted(compile):
        with fresh_weights(1):
            learner = Fitted(NARROW[name]())
        found = [update for _, update in run(learner, Batches(data, 16, seed=0), 3, compile=compile)]
        return learner, found

    (one, updates), (other, others) = fitted(True), fitted("eager")
    equal(one, other)
    for mine, its in zip(updates, others, strict=True):
        torch.testing.assert_close(mine.per_sample, its.per_sample, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.metrics["grad_norm"], its.metrics["grad_norm"], rtol=1e-3, atol=1e-5)
        assert mine.metrics["grad_norm"] > 0.0


@pytest.mark.slow
@needs_compiler
def test_compiled_equals_plain():
    equal(*(trained(Scaled(1), Draws(1), 3 * CHECK_EVERY, way) for way in (True, "eager")))


@pytest.mark.slow
@needs_compiler
def test_a_number_that_is_changed_in_mid_run_is_seen():
    """At the latest after CHECK_EVERY updates; in the next run at once."""
    learner = Scaled(3)
    losses = []
    for clock, update in run(learner, Draws(3), 4 * CHECK_EVERY, compile=True):
        losses.append(float(update.metrics["loss"]))
        if clock.updates == 2 * CHECK_EVERY:
            learner.scale = 100.0
    assert max(losses[: 2 * CHECK_EVERY]) < 100 < min(losses[3 * CHECK_EVERY :])
    _, update = next(run(learner, Draws(4), 1, compile=True))
    assert float(update.metrics["loss"]) > 100


class Prepared(Draws):
    """Batches are made while advancing, and held by plain attributes."""

    batch: dict[str, Tensor]
    shift: Tensor

    def advance(self):
        self.batch = {"x": torch.tensor(self.generator.normal(size=(8, 3)), dtype=torch.float32)}
        self.shift = torch.tensor(float(self.updates))

    def sample(self):
        return Noise(self.batch["x"] + self.shift, self.batch_clock)


class Averaging(Scaled):
    """A buffer gets another tensor at each update."""

    average: Tensor

    def __init__(self, seed=0):
        super().__init__(seed)
        self.register_buffer("average", torch.zeros(3))

    def update(self, batch):
        self.average = 0.9 * self.average + 0.1 * batch.x.mean(0)
        return super().update(batch._replace(x=batch.x - self.average))


@pytest.mark.slow
@needs_compiler
def test_tensors_that_are_replaced_are_followed():
    equal(*(trained(Averaging(2), Prepared(2), 40, way) for way in (True, "eager")))


@pytest.mark.slow
@needs_compiler
def test_a_later_process_finds_the_code_and_needs_no_compiler(tmp_path):
    script = """
import sys, torch
sys.path.insert(0, {root!r})
from tests.engine.draws import Draws
from tests.engine.test_compiled import Scaled, trained
learner = trained(Scaled(7), Draws(7), 20, True)
print(float(learner.network.weight.sum()), "torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    environment = {**os.environ, "AGENTLIB_CACHE": str(tmp_path)}
    found = []
    for path in (os.environ["PATH"], ""):
        command = [sys.executable, "-c", script.format(root=str(ROOT))]
        done = subprocess.run(command, env=environment | {"PATH": path}, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert found[0][1:] == ["True", "True"]
    assert found[1] == [found[0][0], "False", "False"]
    assert len(list((tmp_path / "compiled").glob("*.so"))) == 1


def test_tracing_leaves_everything_as_it_was():
    learner, source = Averaging(4), Prepared(4)
    trained(learner, source, 3, False)
    source.advance()
    before, kinds = state_of(learner, source), [type(module) for module in (learner, learner.network, source)]
    trace = traced(learner, source)
    assert difference(before, state_of(learner, source)) is None
    assert [type(module) for module in (learner, learner.network, source)] == kinds
    assert "scale" in {read.name for read in trace.reads if read.module is learner}
    with pytest.raises(ZeroDivisionError), torch.random.fork_rng(devices=[]):
        traced(Failing(4), source)
    assert difference(before, state_of(learner, source)) is None


class Failing(Scaled):
    def update(self, batch):
        super().update(batch)
        raise ZeroDivisionError


class DrawsOutside(Draws):
    def sample(self):
        return Noise(torch.from_numpy(self.generator.normal(size=(8, 3)).astype(np.float32)), self.batch_clock)


class DrawsNumber(Draws):
    def sample(self):
        return Noise(torch.randn(8, 3) * self.generator.random(), self.batch_clock)


class Counts(Scaled):
    """A number that changes at each update."""

    calls = 0

    def update(self, batch):
        self.calls += 1
        return super().update(batch)


class Reads(Scaled):
    def update(self, batch):
        return super().update(batch._replace(x=batch.x / batch.x.abs().max().item()))


class Selects(Scaled):
    def update(self, batch):
        return super().update(batch._replace(x=batch.x[batch.x[:, 0] > 0]))


class OwnGenerator(Draws):
    def sample(self):
        return Noise(torch.randn(8, 3, generator=torch.Generator()), self.batch_clock)


class Shares(Scaled):
    """Two parameters in one piece of memory."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.network.bias = nn.Parameter(self.network.weight.data[0, :1])


class Neighbours(Scaled):
    """Two parameters side by side in one piece of memory."""

    def __init__(self, seed=0):
        super().__init__(seed)
        weight, bias = torch.cat([self.network.weight.data.ravel(), self.network.bias.data]).split([3, 1])
        self.network.weight, self.network.bias = nn.Parameter(weight.view(1, 3)), nn.Parameter(bias)
        self.step = Step(self.network, adam(0.01))


def test_parts_of_one_piece_of_memory(monkeypatch):
    monkeypatch.setattr(loop, "library", lambda trace: Plain(trace))
    one, other = (trained(Neighbours(), Draws(), 40, compile) for compile in (True, "eager"))
    assert difference(state_of(one)[0], state_of(other)[0]) is None


@pytest.mark.parametrize(
    ("learner", "source", "message"),
    [
        (Scaled(), DrawsOutside(), "came from outside of torch"),
        (Scaled(), DrawsNumber(), "not the same tensor work"),
        (Counts(), Draws(), "Counts.calls"),
        (Reads(), Draws(), "item"),
        (Selects(), Draws(), "where"),
        (Scaled(), OwnGenerator(), "torch's default"),
        (Shares(), Draws(), "share memory"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_compiled_says_so_and_runs_plain(learner, source, message, monkeypatch):
    plain = type(learner)(), type(source)()
    trained(*plain, 3, False)
    monkeypatch.setattr(loop, "library", lambda trace: Plain(trace))
    with pytest.raises(CannotCompile, match=message):
        trained(type(learner)(), type(source)(), 3, True)
    monkeypatch.setattr("agentlib.engine.loop.AUTO_COMPILE_UPDATES", 3)
    monkeypatch.setattr("agentlib.engine.loop.compiler_found", lambda: True)
    with pytest.warns(UserWarning, match="uncompiled"):
        trained(learner, source, 3, "auto")
    if not isinstance(source, DrawsOutside | DrawsNumber):
        assert difference(state_of(*plain)[0], state_of(learner, source)[0]) is None


class Plain:
    """A trace's operations, one by one."""

    def __init__(self, trace):
        self.trace = trace

    def run(self, inputs):
        values = dict(zip(self.trace.inputs, inputs, strict=True))

        def of(value):
            if isinstance(value, Ref):
                return values[value]
            return [of(item) for item in value] if isinstance(value, list) else value

        with torch.no_grad():
            for function, args, kwargs, results, together in self.trace.operations:
                out = function(*map(of, args), **{name: of(value) for name, value in kwargs.items()})
                values.update(zip(results, out if together else [out], strict=True))
        return [values[ref].clone() for ref in self.trace.outputs]


def test_batches_that_are_replaced_are_no_reason_to_trace_again(monkeypatch):
    traces = []

    def library(trace):
        traces.append(trace)
        return Plain(trace)

    monkeypatch.setattr(loop, "library", library)
    trained(Scaled(6), Prepared(6), 4 * CHECK_EVERY, True)
    assert len(traces) == 1


def test_sizes_that_keep_changing(monkeypatch):
    class Grows(Draws):
        def advance(self):
            self.x = torch.ones(self.updates + 1, 3)

        def sample(self):
            return Noise(self.x, self.batch_clock)

    monkeypatch.setattr(loop, "library", lambda trace: Plain(trace))
    with pytest.raises(CannotCompile, match=f"{MOST_TRACES} times"):
        trained(Scaled(), Grows(), 2 * MOST_TRACES, True)


def test_the_operations_of_a_trace_are_the_update(monkeypatch):
    """Bit for bit."""
    monkeypatch.setattr(loop, "library", lambda trace: Plain(trace))
    states = []
    for way in (True, "eager"):
        learner, source = Averaging(5), Prepared(5)
        trained(learner, source, 40, way)
        states.append(state_of(learner, source)[0])
    assert difference(*states) is None


def built(learner_class, updates=60):
    """The state after a compiled run, from an empty cache."""
    learner, source = learner_class.tiny(seed=0)
    reports = [copied(tuple(update)) for _, update in run(learner, source, updates, compile=True)]
    return reports, copied(learner), copied(source)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("learner_class", [DQN, GAN, Diffusion], ids=lambda one: one.__name__)
def test_our_runtime_is_the_container_bit_for_bit(learner_class, monkeypatch, tmp_path):
    """`runtime.cpp` against AOTInductor's own, each built for this."""
    container = torch_private._compile

    def never_the_container(graph, tensors, folder, compiler, settings):
        assert settings
        return container(graph, tensors, folder, compiler, settings)

    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path / "runtime"))
    with monkeypatch.context() as patch:
        patch.setattr(torch_private, "_compile", never_the_container)
        ours = built(learner_class)
    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path / "container"))
    monkeypatch.setattr(torch_private, "_build_in_runtime", None)  # so that it fails
    assert difference(built(learner_class), ours) is None


@pytest.mark.slow
@needs_compiler
def test_an_empty_and_a_filled_cache_give_the_same_run(monkeypatch, tmp_path):
    """Bit for bit; what is in the cache decides over time alone."""
    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path))
    first = built(DQN)
    (library,) = (tmp_path / "compiled").glob("*.so")
    written = library.stat().st_mtime_ns
    assert difference(built(DQN), first) is None
    assert library.stat().st_mtime_ns == written
