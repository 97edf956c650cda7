"""Sequences as examples: the order of two letters, and the adding problem (Hochreiter & Schmidhuber 1997)."""

from typing import Any

import agentlib
from agentlib.core import Cosine
from agentlib.data import Dataset
from agentlib.data.sequences import adding, which_first
from benchmarks.experiments import Claim, Experiment

STEPS = 50


def order(seed: int) -> dict[str, float]:
    """Which of two letters came first, by networks with memory and by how often each letter is there."""
    data, found = which_first(6_000, seed, STEPS), {}
    counts = Dataset(data.x.sum(1), data.y, data.classes)
    for name, seen in (("lstm", data), ("gru", data), ("mlp", counts)):
        result: Any = agentlib.train(
            "classifier", data=seen, backbone=name, net_arch=(64,), steps=1_500, learning_rate=Cosine(1e-2),
            max_grad_norm=1.0, seed=seed, progress=False,
        )  # fmt: skip
        found[name] = result.measures["test/accuracy"]
    return found


def sums(seed: int) -> dict[str, float]:
    """The squared error of the sum of two marked numbers; that of their mean is 1/6."""
    result: Any = agentlib.train(
        "regressor", data=adding(10_000, seed, STEPS), backbone="lstm", net_arch=(64,), normalize=False, steps=2_500,
        learning_rate=3e-3, max_grad_norm=1.0, seed=seed, progress=False,
    )  # fmt: skip
    return {"lstm": result.measures["test/rmse"] ** 2}


EXPERIMENTS = [
    Experiment(
        name="order_of_letters",
        family="Language",
        data="6,000 rows of 50 letters, one a and one b among c and d; which came first; 1,500 updates",
        measure=order,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("lstm", "LSTM of 64, accuracy", at_least=0.95),
            Claim("gru", "GRU of 64, accuracy"),
            Claim("mlp", "a network on the number of each letter, accuracy", reference=".5, chance"),
        ),
        note="Nothing was trained before the seeds; on 20 letters an LSTM of 32 is a test.",
    ),
    Experiment(
        name="adding_problem",
        family="Language",
        data="10,000 rows of 50 numbers, two of them marked; their sum; an LSTM of 64, 2,500 updates",
        measure=sums,
        seeds=3,
        first_seed=200,
        claims=(Claim("lstm", "LSTM, mean squared error", at_most=0.01, reference=".167, the mean of the sums"),),
        note="Tried first on seed 0, where a test shows .0003.",
    ),
]
