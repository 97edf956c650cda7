"""Choices around adversarial training: averaged weights and CutMix, GELU, and adversarial pretraining."""

from typing import Any

import torch

import agentlib
from agentlib.backbones import CNN
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset, Splits
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.robustness import robust_accuracy
from benchmarks.evidence.mnist import PAPER, mnist
from benchmarks.experiments import Claim, Experiment

FAMILY, FILES = "Robustness", ("mnist.npz",)
EPSILON, UPDATES, TESTED = 0.2, 2_000, 1_000
CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"average": 0.995},
    "cutmix": {"cutmix": 1.0},
    "both": {"average": 0.995, "cutmix": 1.0},
    "gelu": {},
}


def trained(data: Splits, backbone: Any, updates: int, seed: int, **options: Any) -> Any:
    """Adversarial training by five steps of PGD, 100 images per update."""
    how: Any = {"epsilon": EPSILON, "attack_steps": 5, "batch_size": 100, "learning_rate": Cosine(1e-3)}
    return agentlib.train(
        "adversarial", data=data, backbone=backbone, steps=updates, seed=seed, progress=False, **(how | options)
    )


def fresh(seed: int, activation: str = "relu") -> CNN:
    with fresh_weights(seed):
        return CNN(**PAPER, activation=activation)


def judged(model: Any, test: Dataset, name: str, seed: int) -> dict[str, float]:
    """Accuracy with and without PGD-20 from two random starts."""
    attack: Any = {"epsilon": EPSILON, "steps": 20, "step_size": 0.02, "restarts": 2}
    clean = float((logits_of(model, test.x).argmax(1) == test.targets).double().mean())
    return {
        f"{name}_clean": clean,
        f"{name}_robust": float(robust_accuracy(model, test.x, test.targets, seed=seed, **attack)),
    }


def choices(seed: int) -> dict[str, float]:
    """2,000 images, 100 epochs of them, so that weights overfit to the attacks of training."""
    splits, found = mnist(seed), dict[str, float]()
    data = Splits(splits.train.take(torch.arange(2_000)), splits.validation.take(torch.arange(500)), splits.test)
    for name, options in CHOICES.items():
        network = fresh(seed, "gelu" if name == "gelu" else "relu")
        model = trained(data, network, UPDATES, seed, **options).model
        found |= judged(model, splits.test.sampled(TESTED), name, seed)
    return found | {f"{name}_more": found[f"{name}_robust"] - found["plain_robust"] for name in CHOICES}


def half(data: Dataset, first: int, n: int | None = None) -> Dataset:
    """Five classes from this one on, their labels from 0, and n images at most."""
    rows = ((data.targets >= first) & (data.targets < first + 5)).nonzero()[:n, 0]
    part = data.take(rows)
    return Dataset(part.x, part.targets - first, tuple("0123456789")[first : first + 5])


def pretraining(seed: int) -> dict[str, float]:
    """As many updates on 250 digits below 5, or half of them on 10,000 digits above, with attacks or without."""
    splits, found = mnist(seed), dict[str, float]()
    few, many = (
        Splits(half(splits.train, first, n), half(splits.validation, first, 500), half(splits.test, first, TESTED))
        for first, n in ((0, 250), (5, 10_000))
    )
    begins: dict[str, dict[str, Any]] = {"adversarial": {}, "usual": {"clean_share": 1.0, "attack_steps": 1}}
    models = {"none": trained(few, fresh(seed), UPDATES, seed).model}
    for name, options in begins.items():
        backbone = trained(many, fresh(seed), UPDATES // 2, seed, **options).backbone
        models[name] = trained(few, backbone, UPDATES // 2, seed).model
    for name, model in models.items():
        found |= judged(model, few.test, name, seed)
    return found | {f"{name}_more": found[f"{name}_robust"] - found["none_robust"] for name in begins}


EXPERIMENTS = [
    Experiment(
        name="adversarial_choices",
        family=FAMILY,
        data="2,000 images of MNIST, epsilon .2, PGD-5, 2,000 updates of 100; 1,000 test images under PGD-20",
        measure=choices,
        files=FILES,
        first_seed=200,
        claims=(
            Claim("plain_robust", "accuracy under attack", statistic="mean"),
            Claim("average_more", "averaged weights, more than that", statistic="mean"),
            Claim("cutmix_more", "CutMix, more than that", statistic="mean"),
            Claim("both_more", "both, more than that", statistic="mean", at_least=0.0, of="interval"),
            Claim("gelu_more", "GELU in place of ReLU, more than that", statistic="mean"),
            Claim("plain_clean", "clean accuracy", statistic="mean"),
            Claim("both_clean", "clean accuracy, averaged weights and CutMix", statistic="mean"),
        ),
        note="Rebuffi et al. (2021) find on CIFAR-10 that CutMix helps where weights are averaged.",
    ),
    Experiment(
        name="adversarial_pretraining",
        family=FAMILY,
        data="250 images of MNIST's digits below 5 after 10,000 of the others, epsilon .2, PGD-5, 2,000 updates in all",
        measure=pretraining,
        files=FILES,
        first_seed=200,
        claims=(
            Claim("none_robust", "accuracy under attack, all updates on the 250", statistic="mean"),
            Claim(
                "adversarial_more",
                "half of the updates before, with attacks: more than that",
                statistic="mean",
                at_least=0.0,
                of="interval",
            ),
            Claim("usual_more", "half of the updates before, without attacks: more than that", statistic="mean"),
            Claim("none_clean", "clean accuracy, all updates on the 250", statistic="mean"),
            Claim("adversarial_clean", "clean accuracy after pretraining with attacks", statistic="mean"),
        ),
        note="Hendrycks et al. (2019) pretrain on ImageNet for CIFAR-10.",
    ),
]
