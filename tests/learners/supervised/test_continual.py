"""Learning that goes on: the Fisher information in closed form, the penalty, the stream and its memory."""

from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib.backbones import MLP
from agentlib.core import Clock
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Problem
from agentlib.data import Dataset, Splits
from agentlib.data.streams import Stream, stream_of
from agentlib.engine import run
from agentlib.learners.supervised.continual import Continual, fisher_diagonal
from agentlib.policies import CategoricalPolicy
from agentlib.runs.plan import job_of


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labelled(classes=6, each=10):
    y = torch.arange(classes).repeat_interleave(each)
    return Dataset(torch.cat([y[:, None].double(), random(len(y), 3)], 1).float(), y, tuple("ABCDEF"[:classes]))


def test_the_fisher_information_of_logistic_regression():
    """E p_k (1 - p_k) x_j^2 for weights, and E p_k (1 - p_k) for biases."""
    with fresh_weights(0):
        policy = CategoricalPolicy(MLP(3, ()), 4).double()
    x = random(20, 3)
    shares = policy(x)[0].softmax(-1)
    spread = (shares * (1.0 - shares)).detach()  # (20, 4)
    expected = {(4, 3): (spread[:, :, None] * x[:, None].square()).mean(0), (4,): spread.mean(0)}
    parts = fisher_diagonal(policy, x).split([p.numel() for p in policy.parameters()])
    for found, parameter in zip(parts, policy.parameters(), strict=True):
        torch.testing.assert_close(found.view_as(parameter), expected[tuple(parameter.shape)])


def test_the_penalty_is_the_sum_over_tasks_and_has_its_gradient():
    job = job_of("continual", Problem(data=labelled(), steps=30), ewc=5.0, tasks=3, net_arch=(8,), fisher_examples=12)
    learner: Any = job.learner.double()
    theta, tasks = list[torch.Tensor](), list[torch.Tensor]()
    for number in range(3):
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(0.3 * random(*parameter.shape, seed=number))
        learner.before_update(Clock(10 * number, 10 * number, 0.0))
        if number:  # nothing is held at the beginning
            theta.append(learner.flat().detach().clone())
            tasks.append(fisher_diagonal(learner.policy, learner.seen[number - 1]))
        learner.before_update(Clock(10 * number + 1, 10 * number + 1, 0.0))  # nor between the ends of tasks
    now = learner.flat()
    expected: Any = 0.5 * sum((f * (now - t).square()).sum() for f, t in zip(tasks, theta, strict=True))
    torch.testing.assert_close(learner.penalty(), expected)
    ours, theirs = (torch.autograd.grad(one, learner.step.parameter_list) for one in (learner.penalty(), expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    learner.before_update(Clock(30, 30, 1.0))
    assert torch.equal(learner.precision, torch.stack(tasks).sum(0)), "after the last task nothing is held any more"


def test_at_the_end_of_a_task_the_penalty_is_zero():
    learner, source = Continual.tiny()
    metrics = [update.metrics for _, update in run(learner, source, 8, compile=False)]
    assert [float(one["penalty"]) for one in metrics[:5]] == pytest.approx([0.0] * 5, abs=1e-4)
    assert float(metrics[-1]["penalty"]) > 0.0


def test_tasks_of_classes_and_of_orders():
    data = labelled()
    found = stream_of(data, "split", 3)
    assert [task.targets.unique().tolist() for task in found] == [[0, 1], [2, 3], [4, 5]]
    assert all(task.classes == data.classes for task in found)
    first, second, third = stream_of(data, "permuted", 3, seed=1)
    assert torch.equal(first.x, data.x)
    assert torch.equal(second.targets, data.targets)
    for task in (second, third):
        assert torch.equal(task.x.sort(1).values, data.x.sort(1).values)
        order = [int((task.x[0] == value).nonzero()) for value in data.x[0]]
        assert torch.equal(task.x[:, order], data.x), "one order for all examples"
    again = stream_of(data, "permuted", 3, seed=1)
    assert torch.equal(again[2].x, third.x)
    assert not torch.equal(stream_of(data, "permuted", 3, seed=2)[1].x, second.x)
    with pytest.raises(ValueError, match=r"6 classes split into 4 tasks leave less than two for one: give at most 3"):
        stream_of(data, "split", 4)


@pytest.mark.parametrize("memory", [0, 2])
def test_batches_are_of_one_task_and_of_what_is_remembered(memory):
    source = Stream(stream_of(labelled(), "split", 3), batch_size=12, task_updates=4, memory=memory, seed=0)
    remembered = source.remembered
    assert len(remembered) == 6 * memory
    for update in range(15):
        source.updates = update
        source.advance()
        batch, task = source.sample(), min(update // 4, 2)
        assert batch.y is not None
        labels = batch.y // 2
        old = labels < task
        assert int((labels > task).sum()) == 0
        assert int(old.sum()) == (6 if memory and task else 0)
        assert set(source.rows[old].tolist()) <= set(remembered.tolist())


def clouds(seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(6).repeat(100)
    corners = 3.0 * torch.randn(6, 8, generator=torch.Generator().manual_seed(7))
    return Dataset(corners[y] + torch.randn(600, 8, generator=generator), y, tuple("ABCDEF"))


def measures(**settings):
    data = Splits(clouds(0), clouds(1), clouds(2))
    shared: Any = {"data": data, "tasks": 3, "net_arch": (32,), "learning_rate": 5e-3, "steps": 450, "progress": False}
    result: Any = agentlib.train("continual", **shared, **settings)
    return result.measures


@pytest.mark.slow
def test_memory_keeps_classes_and_fine_tuning_loses_them():
    alone, replay = measures(memory=0), measures(memory=20)
    assert alone["test/average_accuracy"] < 0.75
    assert alone["test/forgetting"] > 0.35
    assert alone["test/accuracy_of_task_3"] > 0.95
    assert replay["test/average_accuracy"] > 0.9
    assert replay["test/forgetting"] < 0.1


@pytest.mark.slow
def test_elastic_weights_keep_tasks_of_permuted_numbers():
    settings: Any = {"memory": 0, "stream": "permuted"}
    alone, held = measures(**settings), measures(ewc=300.0, **settings)
    assert held["test/forgetting"] < alone["test/forgetting"] - 0.02
    assert held["test/average_accuracy"] > alone["test/average_accuracy"]


def test_the_matrix_has_a_row_for_each_task(tmp_path):
    settings: Any = {"data": clouds(), "tasks": 3, "net_arch": (8,), "steps": 10}
    result: Any = agentlib.train("continual", out=tmp_path / "run", progress=False, **settings)
    assert [path.name for path in result.pictures] == ["stream.png"]
    job = job_of("continual", Problem(data=clouds(), steps=10), tasks=3, net_arch=(8,))
    for _ in run(job.learner, job.source, 10, compile=False):
        pass
    assert job.judge.finish()[0].value == pytest.approx(result.measures["test/average_accuracy"])
    matrix = np.array(job.judge.facts["accuracies"])
    assert matrix.shape == (3, 3)
    judge: Any = job.judge
    assert matrix[-1].tolist() == judge.accuracies()
    assert [job.judge.curves[f"task {n}"][0] for n in (1, 2, 3)] == [[3, 6]] * 3


def test_a_run_that_was_stopped_is_judged_by_what_it_saw():
    """In the second of three tasks: two rows, and nothing that the third would be needed for."""
    settings: Any = {"data": clouds(), "tasks": 3, "net_arch": (8,), "steps": 9, "progress": False}
    result: Any = agentlib.train("continual", callback=lambda clock, metrics: clock.steps < 5, **settings)
    assert [*result.measures] == ["test/average_accuracy", *(f"test/accuracy_of_task_{n}" for n in (1, 2, 3))]


def test_too_few_updates_are_refused():
    with pytest.raises(ValueError, match="2 updates are too few for 5 tasks"):
        job_of("continual", Problem(data="digits", steps=2))
    with pytest.raises(ValueError, match="10 classes split into 6 tasks"):
        job_of("continual", Problem(data="digits", steps=20), tasks=6)


def test_the_penalty_is_not_rounded_to_bfloat16():
    """Its slope is a difference of large numbers, of which 8 bits would leave nothing."""
    learner, source = Continual.tiny()
    for _ in run(learner, source, 6, compile=False):
        pass
    slopes = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            slopes.append(torch.autograd.grad(learner.penalty(), learner.step.parameter_list))
    for exact, found in zip(*slopes, strict=True):
        torch.testing.assert_close(found, exact)
