"""The short way to the compiled graph does what the long one does."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import Clock, adam
from agentlib.training import Learner, Source, Step, Update, run
from agentlib.training.compiled import CHECK_EVERY, CompiledCycle, compiler_found

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")]


class Noise(NamedTuple):
    x: Tensor
    clock: Clock


class Draws(Source):
    def sample(self):
        return Noise(torch.randn(8, 3), self.batch_clock)


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


def trained(seed, updates, compile):
    learner = Scaled(seed)
    for _ in run(learner, Draws(seed), updates, compile=compile):
        pass
    return learner


def equal(one, other):
    """All of the state, counters of the optimizer included."""
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_graph_is_called_directly_and_equals_eager():
    learner, source, cycle = Scaled(), Draws(), CompiledCycle()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        cycle(learner, source)
        assert cycle.direct is not None
        before = learner.network.weight.clone()
        cycle(learner, source)
    assert not torch.equal(before, learner.network.weight)
    equal(trained(1, 3 * CHECK_EVERY, True), trained(1, 3 * CHECK_EVERY, False))


def test_without_what_torch_may_change(monkeypatch):
    """The means to find a graph are torch's own; where they are gone, every call is a guarded one."""
    from torch._dynamo import eval_frame

    monkeypatch.delattr(eval_frame, "_debug_get_cache_entry_list")
    learner, source, cycle = Scaled(2), Draws(2), CompiledCycle()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        cycle(learner, source)
        cycle(learner, source)
    assert cycle.direct is None
    equal(trained(2, 20, True), trained(2, 20, False))


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


def test_a_host_throws_away_what_torch_has_compiled():
    """A run that is under way goes on."""
    learner, source = Scaled(5), Draws(5)
    for clock, _ in run(learner, source, 3 * CHECK_EVERY, compile=True):
        if clock.updates == 5:
            torch._dynamo.reset()
    equal(learner, trained(5, 3 * CHECK_EVERY, False))
