"""Pictures of another distribution: planted groups, and adapting to corruptions while in use."""

from typing import Any

import numpy as np
import torch
from torch import nn

import agentlib
from agentlib.backbones import CNN
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Domains
from agentlib.data.corruptions import corrupt
from agentlib.data.domains import on_backgrounds
from agentlib.learners.domains.adaptation import adapt_statistics, tent, ttt
from agentlib.metrics.calibration import logits_of
from benchmarks.evidence.mnist import mnist
from benchmarks.experiments import Claim, Experiment

FAMILY, FILES = "Shift of the data", ("mnist.npz",)
LAYERS = (16, "max", 32, "max", 32)


def fresh(seed: int, channels: int, norm: str = "none") -> CNN:
    with fresh_weights(seed):
        return CNN((channels, 28, 28), LAYERS, norm=norm)


def planted_pictures(seed: int) -> dict[str, float]:
    """The small CNN, 1,000 updates: the worst of four groups of the test half."""
    digits = mnist(seed).train
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(digits))[:12_000])
    data = on_backgrounds(digits.take(rows), seed=seed)
    options: dict[str, dict[str, Any]] = {
        "erm": {"balance": "examples"},
        "resampling": {"balance": "groups"},
        "group_dro": {"method": "group_dro", "step_size": 0.05, "per_class": True},
    }
    found: dict[str, float] = {}
    for name, one in options.items():
        how: Any = {"batch_size": 128, "learning_rate": Cosine(1e-3), "steps": 1_000, "seed": seed, "progress": False}
        result: Any = agentlib.train("domains", data=data, backbone=fresh(seed, 3), **one, **how)
        found[name] = result.measures["test/worst_group"]
        usual, odd = (len(data.parts[f"test {kind}"]) for kind in ("usual", "odd"))
        sums = usual * result.measures["test/test usual"] + odd * result.measures["test/test odd"]
        found[f"{name}_all"] = sums / (usual + odd)
    return found | {f"{name}_more": found[name] - found["erm"] for name in ("resampling", "group_dro")}


def adapted_mnist(seed: int) -> dict[str, float]:
    """Two networks, one that learns quarter turns as well; 1,000 test images with fog and with little contrast."""
    splits = mnist(seed)
    data = Domains({"digits": splits.train.take(torch.arange(6_000))})
    how: Any = {"batch_size": 128, "learning_rate": Cosine(1e-3), "steps": 1_000, "seed": seed, "progress": False}
    plain: Any = agentlib.train("domains", data=data, backbone=fresh(seed, 1, "batch"), **how)
    turns: Any = agentlib.train("domains", data=data, method="ttt", backbone=fresh(seed, 1, "group"), **how)
    test, found = splits.test.sampled(1_000), dict[str, float]()

    def right(model: nn.Module, x: torch.Tensor) -> float:
        return float((logits_of(model, x).argmax(1) == test.targets).double().mean())

    def share(model: nn.Module, adapted: nn.Module, x: torch.Tensor) -> float:
        """Of what the corruption took, the part that is there again."""
        before = right(model, x)
        return (right(adapted, x) - before) / max(right(model, test.x) - before, 1e-3)

    for name in ("fog", "contrast"):
        x = corrupt(test.x, name, 3, seed=seed)
        found[f"{name}_lost"] = right(plain.model, test.x) - right(plain.model, x)
        found[f"{name}_turns_lost"] = right(turns.model, test.x) - right(turns.model, x)
        found[f"{name}_statistics"] = share(plain.model, adapt_statistics(plain.model, x), x)
        found[f"{name}_tent"] = share(plain.model, tent(plain.model, x), x)
        found[f"{name}_ttt"] = share(turns.model, ttt(turns.model, x), x)
    return found


EXPERIMENTS = [
    Experiment(
        name="planted_pictures",
        family=FAMILY,
        data="12,000 digits of MNIST on water or land, which tells the class in 95%; small CNN, 1,000 updates",
        measure=planted_pictures,
        files=FILES,
        first_seed=200,
        claims=(
            Claim("erm", "accuracy in the worst group, ERM"),
            Claim("resampling_more", "resampling, more than that", at_least=0.2),
            Claim("group_dro_more", "group DRO, more than that", at_least=0.2),
            Claim("erm_all", "accuracy in all groups together, ERM"),
            Claim("group_dro_all", "the same, group DRO"),
        ),
        note="The groups stand in for those of Waterbirds, where Sagawa et al. (2020) find .60 and, by DRO, .86.",
    ),
    Experiment(
        name="adapted_mnist",
        family=FAMILY,
        data="6,000 digits of MNIST, small CNN, 1,000 updates; 1,000 test images, fog and contrast of severity 3",
        measure=adapted_mnist,
        files=FILES,
        first_seed=200,
        claims=tuple(
            claim
            for name in ("fog", "contrast")
            for claim in (
                Claim(f"{name}_lost", f"accuracy that {name} takes"),
                Claim(f"{name}_statistics", "share that renewed statistics bring back", at_least=0.5),
                Claim(f"{name}_tent", "the same, Tent"),
                Claim(f"{name}_ttt", "the same, quarter turns on a network that learned them"),
            )
        ),
        note="Statistics and Tent are of a network with BatchNorm, turns of one with GroupNorm; each is adapted by the "
        "images that it is judged on, without labels.",
    ),
]
