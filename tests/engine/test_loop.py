"""The loop gives back what it borrows, and one seed is one run."""

import contextlib
import itertools
import random
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import adam
from agentlib.core import Clock, Learner, Linear, Source, Step, Target, Update
from agentlib.core.trees import difference
from agentlib.engine import loop, run
from agentlib.engine.compiled import compiler_found
from agentlib.learners import DQN


class Points(NamedTuple):
    x: Tensor
    y: Tensor
    clock: Clock


class Line(Source):
    """The points are drawn while advancing, the noise while sampling."""

    x: Tensor

    def advance(self):
        self.x = torch.tensor(self.generator.normal(size=(8, 3)), dtype=torch.float32)

    def sample(self):
        return Points(self.x, self.x.sum(1) + torch.randn(8), self.batch_clock)


class Fit(Learner):
    def __init__(self, seed=0, optimizer=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.target = Target(self.network)
        self.step = Step(self.network, optimizer or adam(Linear(0.1, 0.0)))
        self.calls: list[Clock] = []

    def before_update(self, clock):
        self.calls.append(clock)
        self.scale = torch.full((), 1.0 + int(clock.updates) % 2)

    def update(self, batch):
        loss = (self.scale * self.network(batch.x)[:, 0] - batch.y).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "updates": batch.clock.updates.clone()})


def weights(learner):
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


def trained(seed=0, updates=20, host=contextlib.nullcontext, draws=True):
    """The weights after some updates, with a host that has its own life in between."""
    learner, source = Fit(seed), Line(seed)
    with host():
        for _ in run(learner, source, updates, compile="eager"):
            if draws:
                torch.rand(3)
                np.random.rand()  # noqa: NPY002 - the host's
                random.random()
                learner.eval()
    return weights(learner)


def test_one_seed_one_run():
    first = trained(0)
    torch.rand(5)
    assert torch.equal(first, trained(0, draws=False))
    assert not torch.equal(first, trained(1))


@pytest.mark.parametrize(
    "host",
    [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_a_host_in_another_mode(host):
    assert torch.equal(trained(0, host=host), trained(0))

    # Begun in one mode, gone on with in another, state taken in between.
    learner, source = Fit(), Line()
    updates = run(learner, source, 20, compile="eager")
    for _ in range(10):
        with host():
            next(updates)
            source.state_dict()
        next(updates)
    assert torch.equal(weights(learner), trained(0))


def test_everything_borrowed_is_given_back():
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    learner, source = Fit(), Line()
    for _ in run(learner, source, 3, compile="eager"):
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    with torch.no_grad():
        for _ in run(learner, source, 1, compile="eager"):
            assert not torch.is_grad_enabled()
    with torch.inference_mode():
        for _ in run(learner, source, 1, compile="eager"):
            assert torch.is_inference_mode_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in run(learner, source, 1, compile="eager"):
            assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert difference(numpy_state, np.random.get_state()) is None  # noqa: NPY002
    assert random.getstate() == python_state


def test_given_back_after_an_error():
    class Failing(Fit):
        def update(self, batch):
            torch.rand(3)
            raise RuntimeError("broken")

    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError, match="broken"):
            next(run(Failing(), Line(), 1, compile="eager"))
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_stopping_and_going_on():
    learner, source = Fit(), Line()
    for clock, _ in run(learner, source, 20, compile="eager"):
        if clock.updates == 7:
            break
    assert source.updates == 7
    for _ in run(learner, source, 13, compile="eager"):
        pass
    assert source.clock == Clock(20, 20, 1.0)
    assert torch.equal(weights(learner), trained(0))
    assert learner.step.count == 20


def in_bfloat16(compile, precision="bfloat16"):
    learner, source = Fit(), Line()
    losses = [float(u.metrics["loss"]) for _, u in run(learner, source, 20, compile=compile, precision=precision)]
    return learner, losses


def test_bfloat16_is_close_and_weights_stay_float32():
    learner, losses = in_bfloat16(compile="eager")
    _, exact = in_bfloat16(compile="eager", precision="float32")
    assert losses != exact
    np.testing.assert_allclose(losses, exact, rtol=0.05, atol=0.05)
    assert {parameter.dtype for parameter in learner.parameters()} == {torch.float32}
    # Neither gradients nor the optimizer know of it: all of their numbers have more than bfloat16's 8 bits.
    for slot in learner.step.rule.slots:
        numbers = getattr(learner.step, slot)
        assert not torch.equal(numbers, numbers.bfloat16().float())
    assert not torch.is_autocast_enabled("cpu")


def test_an_unknown_precision():
    with pytest.raises(ValueError, match='"float32" or "bfloat16", not \'half\''):
        in_bfloat16(compile="eager", precision="half")


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_each_precision_has_its_own_graph():
    for precision in ("bfloat16", "float32", "bfloat16"):
        np.testing.assert_allclose(
            in_bfloat16(True, precision)[1],
            in_bfloat16(False, precision)[1],
            rtol=0.02 if precision == "bfloat16" else 1e-4,
        )
    assert in_bfloat16(True, "float32")[1] != in_bfloat16(True, "bfloat16")[1]


def test_clocks():
    learner, source = Fit(), Line()
    seen = list(run(learner, source, 4, compile="eager"))
    assert [clock for clock, _ in seen] == [Clock(i, i, i / 4) for i in (1, 2, 3, 4)]  # after the update
    assert learner.calls == [Clock(i, i, i / 4) for i in (0, 1, 2, 3)]  # before it
    assert [float(update.metrics["updates"]) for _, update in seen] == [0, 1, 2, 3]
    assert all(update.metrics["updates"].dtype == torch.float64 for _, update in seen)


def test_training_mode_is_put_back():
    learner, source = Fit(), Line()
    for _ in itertools.islice(run(learner, source, 3, compile="eager"), 2):
        learner.eval()
    next(run(learner, source, 1, compile="eager"))
    assert learner.network.training
    assert not any(module.training for module in learner.target.modules())


def test_two_runs_in_turns_do_not_meet():
    pairs = [(Fit(seed), Line(seed)) for seed in (0, 1)]
    turns = [run(*pair, 20, compile="eager") for pair in pairs]
    for _ in zip(*turns, strict=True):
        pass
    assert torch.equal(weights(pairs[0][0]), trained(0))
    assert torch.equal(weights(pairs[1][0]), trained(1))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(loop, "compiler_found", lambda: False)
    monkeypatch.setattr(loop, "AUTO_COMPILE_UPDATES", 20)
    monkeypatch.setattr(loop, "library", None)  # must not be called
    learner, source = Fit(), Line()
    with pytest.warns(UserWarning, match="C\\+\\+ compiler") as caught:
        for _ in run(learner, source, 20):
            pass
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(weights(learner), trained(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(run(learner, source, 19))  # a short run would not be compiled anyway
        next(run(learner, source, 20, compile="eager"))


def test_large_networks_are_compiled_in_shorter_runs(monkeypatch):
    monkeypatch.setattr(loop, "compiler_found", lambda: True)
    learner, lengths = Fit(), (4_999, 5_000, 19_999, 20_000)
    assert [loop.compiles(learner, updates, "auto") for updates in lengths] == [False, False, False, True]
    learner.frozen = nn.Linear(512, 512).requires_grad_(False)
    assert [loop.compiles(learner, updates, "auto") for updates in lengths] == [False, False, False, True]
    learner.large = nn.Linear(512, 512)
    assert [loop.compiles(learner, updates, "auto") for updates in lengths] == [False, True, True, True]


def test_torch_optimizers_run_eager(monkeypatch):
    monkeypatch.setattr(loop, "AUTO_COMPILE_UPDATES", 2)
    monkeypatch.setattr(loop, "library", None)
    learner = Fit(optimizer=partial(torch.optim.SGD, lr=0.1))
    assert len(list(run(learner, Line(), 3))) == 3
    with pytest.raises(ValueError, match=r"torch\.optim"):
        next(run(learner, Line(), 3, compile=True))


def test_dqn_targets_follow_on_time():
    """Every 20 environment steps, four of which lie between two updates, counted before the update."""
    learner, source = DQN.tiny()
    learner.target.every = 20
    changed, before = [], weights(learner.target)
    for clock, _ in run(learner, source, 20, compile="eager"):
        now = weights(learner.target)
        if not torch.equal(before, now):
            changed.append(clock.steps)
        before = now
    assert changed == [80, 100, 120, 140]


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_compiled_runs_give_back_and_share_a_graph():
    from torch._dynamo import config

    class Plain(Fit):
        def before_update(self, clock):
            pass

        def update(self, batch):
            loss = (self.network(batch.x)[:, 0] - batch.y).square().mean()
            self.step(loss, batch.clock)
            return Update({"loss": loss.detach()})

    def train(seed, compiled):
        learner, source = Plain(seed), Line(seed)
        with torch.inference_mode():
            list(run(learner, source, 10, compile=compiled))
        return weights(learner)

    state, flags = torch.get_rng_state(), (config.trace_autograd_ops, config.recompile_limit)
    torch.testing.assert_close(train(0, True), train(0, False), rtol=1e-4, atol=1e-5)
    assert (config.trace_autograd_ops, config.recompile_limit) == flags
    assert torch.equal(torch.get_rng_state(), state)
    with config.patch(error_on_recompile=True):  # another seed, another object: the same graph
        torch.testing.assert_close(train(1, True), train(1, False), rtol=1e-4, atol=1e-5)
