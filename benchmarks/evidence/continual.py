"""Streams of tasks: what is forgotten, and what a memory or elastic weights save."""

from collections.abc import Callable
from typing import Any

import torch

import agentlib
from agentlib.data import Dataset, Splits, parts
from agentlib.data.streams import Kind, stream_of
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

FAMILY, FROM = "Learning that goes on", 200
DIGITS: dict[str, Any] = {"net_arch": (64,), "batch_size": 32, "steps": 800}
MNIST: dict[str, Any] = {"net_arch": (256, 256), "batch_size": 128, "steps": 5_000}


def joint(splits: Splits, kind: Kind, seed: int, **settings: Any) -> float:
    """The accuracy of one classifier that learns all tasks at once, for as many updates: the ceiling."""

    def union(part: Dataset) -> Dataset:
        tasks = stream_of(part, kind, 5, seed)
        return Dataset(torch.cat([one.x for one in tasks]), torch.cat([one.targets for one in tasks]), tasks[0].classes)

    train = union(splits.train)
    data = Splits(train, train.sampled(1_000), union(splits.test))  # the second decides nothing
    result = agentlib.train("classifier", data=data, seed=seed, patience=None, progress=False, **settings)
    return float(result.measures["test/accuracy"])


def measured(data: Any, kind: Kind, ways: dict[str, dict[str, Any]], settings: dict[str, Any]) -> Callable[[int], Any]:
    def measure(seed: int) -> dict[str, float]:
        splits = parts(data() if callable(data) else data, seed, validation=0.0, predict="classes")
        found = {"joint": joint(splits, kind, seed, **settings)}
        for name, way in ways.items():
            given: dict[str, Any] = {"stream": kind, "memory": 0, "learning_rate": 1e-3} | settings | way
            result = agentlib.train("continual", data=splits, seed=seed, progress=False, **given)
            found[name] = result.measures["test/average_accuracy"]
            found[f"{name}_forgetting"] = result.measures["test/forgetting"]
        return found | {"below_joint": found["joint"] - found["replay"]}

    return measure


def claims(**bounds: dict[str, float]) -> tuple[Claim, ...]:
    about = {
        "alone": "fine-tuning, average accuracy in the end",
        "alone_forgetting": "fine-tuning, forgetting",
        "ewc": "elastic weights, average accuracy",
        "ewc_forgetting": "elastic weights, forgetting",
        "replay": "replay, average accuracy",
        "replay_forgetting": "replay, forgetting",
        "joint": "all tasks at once",
        "below_joint": "all tasks at once less replay",
    }
    return tuple(Claim(name, what, **bounds.get(name, {})) for name, what in about.items())  # type: ignore[arg-type]


EXPERIMENTS = [
    Experiment(
        name="continual_split_digits",
        family=FAMILY,
        data="digits, five tasks of two classes, 160 updates of 32 each; 64 units; 20 examples of a class remembered",
        first_seed=FROM,
        measure=measured("digits", "split", {"alone": {}, "ewc": {"ewc": 300.0}, "replay": {"memory": 20}}, DIGITS),
        claims=claims(alone={"at_most": 0.35}, replay={"at_least": 0.80}),
        note="Other code had .191 alone, with forgetting of .80; .679, .846, .898 with 1, 5, 20 examples of a class "
        "remembered; and .97 for all tasks at once.",
    ),
    Experiment(
        name="continual_permuted_mnist",
        family=FAMILY,
        data="MNIST, five orders of its pixels, 1,000 updates of 128 each; 256 and 256 units; 100 examples of "
        "each class of each task remembered",
        measure=measured(
            lambda: path("mnist.npz"),
            "permuted",
            {"alone": {}, "ewc": {"ewc": 300.0}, "replay": {"memory": 100}},
            MNIST,
        ),
        first_seed=FROM,
        files=("mnist.npz",),
        seeds=3,
        claims=claims(below_joint={"at_most": 0.03}),
    ),
]
