"""A transformer that learns linear regression from the examples in front of it (Garg et al. 2022, arXiv:2208.01066).

    y_i = w . x_i + e_i,    w ~ N(0, I),  x ~ N(0, I),  e ~ N(0, s^2);    it reads x_1, y_1, x_2, ..., and predicts y

No weight is changed for a task. Least squares of k examples has the expected error s^2 (1 + d / (k - d - 1)); the best
that there is, the mean of w given the examples, is ridge regression with the strength s^2.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from agentlib.backbones import TransformerDecoder, adam
from agentlib.core import Clock, Cosine, Learner, Optimizer, Step, Update, Warmup
from agentlib.core.source import Source
from agentlib.engine import run
from benchmarks.experiments import Claim, Experiment

DIM, POINTS, NOISE = 5, 16, 0.5


class Points(NamedTuple):
    """A batch of tasks."""

    x: Tensor
    """`(B, n, d)`."""
    y: Tensor
    """`(B, n)`."""
    clock: Clock


class LinearTasks(Source):
    """A new w for each row."""

    def __init__(self, batch_size: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.batch_size = batch_size

    def sample(self) -> Points:
        x = torch.randn(self.batch_size, POINTS, DIM, device=self.ticks.device)
        w = torch.randn(self.batch_size, DIM, 1, device=self.ticks.device)
        y = (x @ w)[..., 0]
        return Points(x, y + NOISE * torch.randn_like(y), self.batch_clock)


class InContext(Learner):
    """L = mean_i (f(x_1, y_1, ..., x_i) - y_i)^2."""

    def __init__(self, backbone: TransformerDecoder, optimizer: Optimizer) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.feature_dim, 1)
        self.step = Step([self.backbone, self.head], optimizer, 1.0)

    def predict(self, batch: Any) -> Tensor:
        """The prediction `(B, n)` of each y, by the pairs before it and its x."""
        given = torch.cat([batch.x, torch.zeros_like(batch.y)[..., None]], -1)  # (B, n, d + 1)
        answer = torch.cat([torch.zeros_like(batch.x), batch.y[..., None]], -1)
        steps = torch.stack([given, answer], 2).flatten(1, 2)  # (B, 2 n, d + 1)
        return self.head(self.backbone.whole(steps)[:, ::2])[..., 0]  # type: ignore[no-any-return]

    def update(self, batch: Points) -> Update:
        errors = (self.predict(batch) - batch.y).square()  # (B, n)
        norm = self.step(errors.mean(), batch.clock)
        return Update({"loss": errors.mean().detach(), "grad_norm": norm}, errors.detach().mean(1))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """Of the size of the experiment."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TransformerDecoder(
                DIM + 1, 64, 4, 4, positions="learned", max_length=2 * POINTS, window=2 * POINTS
            )
            learner = cls(network, adam(Warmup(Cosine(1e-3), updates=500)))
        return learner, LinearTasks(128, seed)


def solved(x: Tensor, y: Tensor, at: Tensor, strength: float = 0.0) -> Tensor:
    """The prediction `(B,)` at `(B, d)` by ridge regression on `(B, k, d)` and `(B, k)`; of 0, least squares."""
    square = x.mT @ x + strength * torch.eye(x.shape[-1], dtype=x.dtype)  # (B, d, d)
    w = torch.linalg.solve(square, x.mT @ y[..., None])
    return (at[:, None] @ w)[:, 0, 0]


def in_context(seed: int) -> dict[str, float]:
    """Errors of the next y after 2 d examples, of 100,000 new tasks."""
    learner, source = InContext.tiny(seed)
    for _ in run(learner, source, 30_000):
        pass
    k, errors = 2 * DIM, dict[str, list[float]]()
    test, generator = LinearTasks(10_000, seed), torch.random.fork_rng(devices=[])
    with generator, torch.no_grad():
        torch.manual_seed(1_000_000 + seed)
        for _ in range(10):
            batch = test.sample()
            x, y, at = batch.x[:, :k].double(), batch.y[:, :k].double(), batch.x[:, k].double()
            predictions = {
                "transformer": learner.eval().predict(batch)[:, k].double(),
                "least_squares": solved(x, y, at),
                "ridge": solved(x, y, at, NOISE**2),
                "zero": torch.zeros(len(x), dtype=torch.float64),
            }
            for name, value in predictions.items():
                errors.setdefault(name, []).append(float((value - batch.y[:, k].double()).square().mean()))
    found = {name: float(np.mean(values)) for name, values in errors.items()}
    expected = NOISE**2 * (1.0 + DIM / (k - DIM - 1))
    return found | {
        "ratio": found["transformer"] / found["least_squares"],
        "ratio_ridge": found["transformer"] / found["ridge"],
        "expected": expected,
    }


EXPERIMENTS = [
    Experiment(
        name="in_context_regression",
        family="Language",
        data="linear functions of 5 numbers with noise of .5, 30,000 updates of 128 tasks of 16 points; 4 layers of 64",
        measure=in_context,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("ratio", "a transformer's error after 10 examples, of that of least squares", at_most=1.1),
            Claim("ratio_ridge", "the same of that of ridge regression, the best that there is"),
            Claim("transformer", "its squared error"),
            Claim("least_squares", "that of least squares", reference=".5625, in expectation"),
            Claim("ridge", "that of ridge regression"),
            Claim("zero", "that of predicting 0", reference="5.25, in expectation"),
        ),
        note="Nothing was trained before the seeds.",
    ),
]
