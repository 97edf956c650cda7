"""Adversarial models of MNIST without pairs or labels: codes that stand for classes, and digits of another kind."""

from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

import agentlib
from agentlib.backbones import CNN
from agentlib.core import Linear
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset, Splits
from agentlib.families.building import predicted
from benchmarks.evidence.mnist import FAMILY, FILES, FROM, mnist, trained
from benchmarks.evidence.mnist_generative import short
from benchmarks.experiments import Claim, Experiment


def infogan(seed: int, updates: int = 10_000) -> dict[str, float]:
    """Ten codes without labels: how well the network that reads them tells the classes of test images apart."""
    splits = short(seed)
    with fresh_weights(seed):
        reader = CNN((1, 28, 28), ((32, 4, 2, 1), (64, 4, 2, 1)), feature_dim=256, activation="leaky_relu", norm="none")
    result = agentlib.train(
        "infogan",
        data=splits,
        backbone=reader,
        steps=updates,
        seed=seed,
        learning_rate=Linear(5e-4, 0.0),
        latent_dim=62,
        net_arch=(256, 512, 512),
        progress=False,
    )
    test: Any = mnist(seed).test
    with torch.inference_mode():
        codes = torch.cat([result.model.code(piece) for piece in test.x.split(500)])
    counts = torch.zeros(10, 10).index_put_((codes, test.targets), torch.ones(len(codes)), accumulate=True)
    codes_of, classes = linear_sum_assignment(-counts.numpy())
    return {
        "accuracy": float(counts[codes_of, classes].sum() / counts.sum()),
        "information": result.metrics["train/information"],
    }


def cyclegan(seed: int, updates: int = 4_000) -> dict[str, float]:
    """Digits, and others inverted and thickened; a classifier that learned from the second kind judges the first."""
    splits = mnist(seed)

    def thick(x: Tensor) -> Tensor:
        return 1.0 - functional.max_pool2d(x, 3, 1, 1)

    half = len(splits.train) // 2
    first, second = splits.train.x[:half], thick(splits.train.x[half : 2 * half])
    data = Dataset(torch.cat([first, second]), torch.arange(2 * half) // half, ("digits", "inverted"))
    held = Dataset(torch.cat([splits.validation.x, thick(splits.validation.x)]))
    held = replace(held, y=torch.arange(len(held)) // len(splits.validation), classes=data.classes)
    how: Any = {"steps": updates, "batch_size": 32, "progress": False}
    result = agentlib.train("cyclegan", data=Splits(data, held, held), seed=seed, **how)
    classifier = trained(replace(splits.train, x=thick(splits.train.x)), 860, 10_000 + seed, augment=False)
    test = splits.test
    with torch.inference_mode():
        turned = torch.cat([result.model(piece, 1) for piece in test.x.split(128)])
        back = torch.cat([result.model(piece, 0) for piece in turned.split(128)])
    return {
        "cycle": float((back - test.x).abs().mean()),
        "agreement": float((predicted(classifier, turned).argmax(1) == test.targets).double().mean()),
        "real": float((predicted(classifier, thick(test.x)).argmax(1) == test.targets).double().mean()),
    }


EXPERIMENTS = [
    Experiment(
        name="infogan_mnist",
        family=FAMILY,
        data="55,000 images without labels, 10 codes, 10,000 updates of 64; 10,000 test images",
        measure=infogan,
        files=FILES,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim(
                "accuracy",
                "codes of test images, each matched with one class, accuracy",
                at_least=0.8,
                reference="0.95, Chen et al. 2016",
            ),
            Claim("information", "bound of the mutual information in nats, at most ln 10 = 2.303"),
        ),
    ),
    Experiment(
        name="cyclegan_mnist",
        family=FAMILY,
        data="27,500 digits, and as many others inverted and thickened, without pairs, 4,000 updates of 32",
        measure=cyclegan,
        files=FILES,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim("cycle", "mean absolute difference of test images that went there and back", at_most=0.05),
            Claim("agreement", "a classifier of inverted, thick digits knows the class of turned ones", at_least=0.9),
            Claim("real", "the same classifier on real ones"),
        ),
    ),
]
