"""A hard case of the contracts: DINO, with a teacher that follows by a schedule, a center, and dropout.

    L = H(softmax((teacher(v) - center) / tau_t), softmax(student(v') / tau_s))           (Caron et al. 2021)

It keeps the contract; it is compiled as one graph, equals its eager self, and goes on from a file bit for bit.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agentlib.backbones import MLP, adam, sgd
from agentlib.core import Clock, Cosine, Learner, Rule, Source, Step, Target, Update, at
from agentlib.engine import run
from agentlib.engine.compiled import compiler_found
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint
from agentlib.testing import check_learner


class seeded:
    """The default generator, seeded inside and given back."""

    def __init__(self, seed: int) -> None:
        self.fork, self.seed = torch.random.fork_rng(devices=[]), seed

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


class Views(NamedTuple):
    first: Tensor
    second: Tensor
    clock: Clock


class TwoViews(Source):
    """Two noisy views of points around four centers, shuffled per epoch."""

    data: Tensor
    order: Tensor
    place: Tensor

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__(seed)
        self.batch_size = batch_size
        centers = np.random.default_rng(0).normal(size=(4, 6))
        self.register_buffer("data", torch.tensor(np.repeat(centers, 12, 0), dtype=torch.float32))
        self.register_buffer("order", torch.zeros(len(self.data), dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def advance(self) -> None:
        batches = len(self.data) // self.batch_size
        if self.updates % batches == 0:
            self.order.copy_(torch.from_numpy(self.generator.permutation(len(self.data))))
        self.place.fill_(self.updates % batches)

    def sample(self) -> Views:
        index = self.order[self.place * self.batch_size + torch.arange(self.batch_size, device=self.place.device)]
        x = self.data[index]
        return Views(x + 0.3 * torch.randn_like(x), x + 0.3 * torch.randn_like(x), self.batch_clock)


class DINO(Learner):
    center: Tensor

    def __init__(self, student: nn.Module, out_dim: int, rule: Rule, temperature: float = 0.1) -> None:
        super().__init__()
        self.student, self.teacher = student, Target(student)
        self.momentum, self.temperature = Cosine(0.9, 1.0), temperature
        self.step = Step(student, rule)
        self.register_buffer("center", torch.zeros(out_dim))

    def update(self, batch: Views) -> Update:
        views = torch.cat([batch.first, batch.second])  # (2B, d)
        with torch.no_grad():
            taught = self.teacher(views)
            goal = ((taught - self.center) / (self.temperature / 2)).softmax(-1)  # sharper than the student
            entropy = -(goal * goal.clamp_min(1e-12).log()).sum(-1).mean()
        prediction = (self.student(views) / self.temperature).log_softmax(-1)
        loss = -(goal.roll(len(batch.first), 0) * prediction).sum(-1).mean()  # each view learns from the other
        self.step(loss, batch.clock)
        self.teacher.follow(1 - at(self.momentum, batch.clock))
        self.center.lerp_(taught.mean(0), 0.1)
        return Update({"loss": loss.detach(), "teacher_entropy": entropy})

    @classmethod
    def tiny(cls, seed=0, rule: Rule | None = None):
        with seeded(seed):
            student = nn.Sequential(MLP(6, (16,)), nn.Dropout(0.1), nn.Linear(16, 8))
        return cls(student, 8, rule or adam(3e-3)), TwoViews(16, seed)


def test_contract():
    check_learner(DINO)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_compiled_equals_eager_and_resumes(tmp_path):
    """Plain SGD: Adam amplifies gradients that are zero but for rounding."""
    eager, eager_source = DINO.tiny(0, sgd(1e-2))
    metrics = [update.metrics for _, update in run(eager, eager_source, 20, compile=False)]

    learner, source = DINO.tiny(0, sgd(1e-2))
    compiled_metrics = [update.metrics for _, update in run(learner, source, 20, compile=True)]
    for step, compiled_step in zip(metrics, compiled_metrics, strict=True):
        torch.testing.assert_close(compiled_step, step, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learner.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-5)

    save_checkpoint(tmp_path / "middle.safetensors", learner, source)
    again, source_again = DINO.tiny(1, sgd(1e-2))
    load_checkpoint(tmp_path / "middle.safetensors", again, source_again)
    for (_, here), (_, there) in zip(
        run(learner, source, 10, compile=True), run(again, source_again, 10, compile=True), strict=True
    ):
        assert all(torch.equal(here.metrics[name], there.metrics[name]) for name in here.metrics)
    for here, there in zip(learner.parameters(), again.parameters(), strict=True):
        assert torch.equal(here, there)


def test_dino_collapse_and_schedule():
    learner, source = DINO.tiny()
    nn.init.zeros_(learner.student[-1].weight)
    nn.init.zeros_(learner.student[-1].bias)
    learner.teacher.follow()
    _, update = next(run(learner, source, 1, compile=False))
    assert update.metrics["loss"].item() == pytest.approx(math.log(8), abs=1e-6)
    assert update.metrics["teacher_entropy"].item() == pytest.approx(math.log(8), abs=1e-6)

    # At the end of the run the momentum is 1: the teacher stands still.
    learner, source = DINO.tiny()
    weights = [learner.teacher.network[-1].weight.clone() for _ in run(learner, source, 40, compile=False)]
    steps = [float((b - a).norm()) for a, b in itertools.pairwise(weights)]
    assert steps[-1] < 0.05 * max(steps)
    assert all(step > 0 for step in steps)


def test_dino_does_not_collapse():
    learner, source = DINO.tiny()
    metrics = [update.metrics for _, update in run(learner, source, 300, compile=False)]
    assert 0.02 < metrics[-1]["loss"] < 0.9 * math.log(8)
    points = source.data[::12]
    with torch.no_grad():
        chosen = learner.teacher(points).softmax(-1)
    assert (torch.cdist(chosen, chosen) + 9 * torch.eye(4)).min() > 0.02  # four centers, told apart
