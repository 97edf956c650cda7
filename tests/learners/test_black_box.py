"""Learning to learn by memory: what the network reads, that nothing is told before it is asked, and what it learns."""

from typing import Any

import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import MLP, AfterAction
from agentlib.core.recipe import Problem
from agentlib.data.episodes import Episodes, Sinusoids
from agentlib.engine import run
from agentlib.learners.meta.black_box import one_step_late
from agentlib.runs.plan import job_of
from tests.data.test_episodes import numbered


def learner_of(data: Any = "sinusoids", **settings: Any) -> Any:
    return job_of("black_box", Problem(data=data, steps=1), **{"net_arch": (16, 16), **settings}).learner.eval()


def tasks_of(**settings):
    source = Sinusoids(6, 5, 4, **settings)
    source.advance()
    return source.sample()


def test_targets_come_one_step_late():
    assert one_step_late(torch.tensor([[3, 1, 2]])).tolist() == [[-1, 3, 1]]
    assert one_step_late(torch.tensor([[[3.0], [1.0]]])).tolist() == [[[0.0], [3.0]]]


@pytest.mark.parametrize("backbone", ["lstm", "transformer"])
def test_predictions_are_those_of_whole_sequences(backbone):
    """After k examples each query is predicted as if it were the next of them."""
    problem = Problem(data="sinusoids", steps=1, backbone=backbone)
    learner: Any = job_of("black_box", problem, net_arch=(16, 16)).learner.eval()
    batch = tasks_of()
    found = learner.predictions(batch, 7)
    assert found.shape == (8, 6, 4, 1)
    assert torch.equal(found[5], found[7]), "there are five examples"
    with torch.no_grad():
        for count in (0, 1, 5):
            for query in range(4):
                x = torch.cat([batch.support.x[:, :count], batch.query.x[:, query, None]], 1)
                y = torch.cat([batch.support.y[:, :count], torch.zeros(6, 1, 1)], 1)
                output, _ = learner.network(AfterAction(x, one_step_late(y)))
                torch.testing.assert_close(found[count, :, query], output[:, -1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.predict(batch), found[5])


def test_no_target_is_told_before_it_is_asked_for():
    """The loss at step t depends on no target after it: slopes of outputs by later targets are zero."""
    learner, batch = learner_of(), tasks_of()
    y = batch.support.y.clone().requires_grad_()
    output, _ = learner.network(AfterAction(batch.support.x, one_step_late(y)))
    for step in range(5):
        (slope,) = torch.autograd.grad(output[:, step].sum(), y, retain_graph=True, allow_unused=True)
        felt = [] if slope is None else slope.abs().sum((0, 2)).nonzero().flatten().tolist()
        assert felt == list(range(step))


def test_without_examples_nothing_is_known_of_labels():
    """Equal logits are a guess: ln N."""
    learner = learner_of(numbered(classes=6, each=5), ways=3, shots=1, queries=1, held_out=0.5)
    for parameter in learner.network.head.parameters():
        nn.init.zeros_(parameter)
    source = Episodes(numbered(classes=6, each=5), 3, 1, 1, 4)
    source.advance()
    assert float(learner.update(source.sample()).metrics["loss"]) == pytest.approx(torch.tensor(3.0).log().item())


@pytest.mark.slow
def test_it_learns_to_fit_lines():
    """Lines through the origin: one example tells the slope. The error falls from E y^2 to far below it."""

    class Lines(Sinusoids):
        def advance(self) -> None:
            x = torch.from_numpy(self.generator.uniform(-1.0, 1.0, (self.tasks, self.shots + self.queries, 1)))
            slope = torch.from_numpy(self.generator.uniform(-1.0, 1.0, (self.tasks, 1, 1)))
            self.points.copy_(torch.stack([x, slope * x]))

    learner = learner_of(batch_size=25, net_arch=(32, 32), learning_rate=5e-3).train()
    for _ in run(learner, Lines(25, 5, 5), 600, compile=False):
        pass
    new = Lines(200, 5, 20, seed=10**6)
    new.advance()
    batch = new.sample()
    errors = (learner.eval().predictions(batch, 5) - batch.query.y).square().mean((1, 2, 3))
    assert float(errors[0]) == pytest.approx(1 / 9, abs=0.03)
    assert float(errors[5]) < 0.35 * float(errors[0])


@pytest.mark.slow
def test_a_run_has_a_curve_by_examples(tmp_path):
    settings: Any = {"steps": 20, "net_arch": (16, 16), "shots": 3}
    result: Any = agentlib.train("black_box", data="sinusoids", out=tmp_path / "run", progress=False, **settings)
    assert list(result.measures) == [f"test/loss_{name}" for name in ("after_0", "after_1", "after_10", "without_task")]
    assert {"adaptation.png"} <= {path.name for path in result.pictures}


def test_networks_without_memory_are_refused():
    with pytest.raises(ValueError, match="black_box needs a network with memory that reads the target before"):
        job_of("black_box", Problem(data="sinusoids", steps=1, backbone=MLP(1)))
