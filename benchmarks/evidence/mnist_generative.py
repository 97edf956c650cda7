"""Generative models of MNIST: a likelihood in nats, and samples by label."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import agentlib
from agentlib.backbones import CNN, MLP, UNetDenoiser
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights, host_generator_kept
from agentlib.data import Splits, parts
from agentlib.families.building import predicted
from agentlib.learners.generative.vae import bounds
from agentlib.metrics.detection import density_score, detection
from agentlib.metrics.likelihoods import independent_bernoulli
from agentlib.metrics.probes import few_labels, linear_probe
from agentlib.metrics.samples import agreement, frechet_distance
from benchmarks.evidence.mnist import DRAWS, FAMILY, FILES, FROM, PER_CLASS, in_pieces, mnist, trained
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

CODES, SAMPLES = 5_000, 2_000
"""Codes of the bound, and samples that are judged."""


def likelihood(k: int, updates: int, batch_size: int, **settings: Any) -> Callable[[int], dict[str, float]]:
    """All 60,000 images to learn from, bits drawn each time; the test images' bits are drawn once, the same for all."""

    def measure(seed: int, tested: int = 10_000) -> dict[str, float]:
        found = parts(path("mnist.npz"), seed, validation=0.0)
        result = agentlib.train(
            "vae",
            data=path("mnist.npz"),
            steps=updates,
            seed=seed,
            importance_samples=k,
            batch_size=batch_size,
            likelihood="bernoulli",
            drawn_bits=True,
            latent_dim=50,
            net_arch=(200, 200),
            validation=0.0,
            progress=False,
            **settings,
        )
        with host_generator_kept(), torch.inference_mode():
            torch.default_generator.manual_seed(0)
            bits = torch.bernoulli(found.test.x)[:tested]
            torch.default_generator.manual_seed(seed)
            tight = [bounds(result.model, piece, CODES)[0] for piece in bits.split(1)]
        floor = independent_bernoulli(found.train.x, bits)
        return {
            "nats": -float(torch.cat(tight).double().mean()),
            "negative_elbo": result.measures["test/negative_elbo"],
            "independent_pixels": -float(floor.mean()),
        }

    return measure


def judged(seed: int, sample: Callable[[int, Tensor], Tensor]) -> dict[str, float]:
    """Samples of each label, judged by a classifier that learned from the training images and saw no sample.

    Frechet distances are in its features, from as many test images; those of as many others are the floor.
    """
    splits = mnist(seed)
    classifier = trained(splits.train, 860, 10_000 + seed)
    label = torch.arange(SAMPLES) % 10
    with host_generator_kept():
        torch.default_generator.manual_seed(seed)
        samples = torch.cat([sample(len(piece), piece) for piece in label.split(500)])

    def classify(x: Tensor) -> Tensor:
        return predicted(classifier, x).argmax(1)

    def features(x: Tensor) -> Tensor:
        return in_pieces(classifier.policy.backbone, x)

    first, second = (features(part) for part in splits.test.x[: 2 * SAMPLES].split(SAMPLES))
    found, floor = frechet_distance(first, features(samples)), frechet_distance(first, second)
    return {
        "agreement": agreement(classify, samples, label),
        "worst_class": min(agreement(classify, samples[label == one], label[label == one]) for one in range(10)),
        "real": agreement(classify, splits.test.x, splits.test.targets),
        "frechet": found,
        "frechet_real": floor,
    }


def wgan(seed: int, updates: int = 8_000) -> dict[str, float]:
    with fresh_weights(seed):
        critic = CNN((1, 28, 28), ((32, 4, 2, 1), (64, 4, 2, 1)), feature_dim=256, activation="leaky_relu", norm="none")
    result = agentlib.train(
        "wgan",
        data=short(seed),
        backbone=critic,
        conditional=True,
        steps=updates,
        seed=seed,
        learning_rate=Cosine(5e-4),
        adam_betas=(0.0, 0.9),
        batch_size=64,
        latent_dim=64,
        net_arch=(256, 512, 512),
        average=0.995,
        progress=False,
    )
    return judged(seed, result.model.sample)


def diffusion(seed: int, updates: int = 6_000) -> dict[str, float]:
    with fresh_weights(seed):
        denoiser = UNetDenoiser((1, 28, 28), widths=(16, 32, 64), condition_dim=10)
    result = agentlib.train(
        "diffusion",
        data=short(seed),
        conditional=True,
        steps=updates,
        seed=seed,
        learning_rate=Cosine(1e-3),
        batch_size=64,
        clip=True,
        sample_steps=25,
        backbone=denoiser,
        precision="bfloat16",
        progress=False,
    )

    def sample(n: int, label: Tensor) -> Tensor:
        return result.model.sample(n, torch.eye(10)[label], steps=25)

    return judged(seed, sample)


def guided_diffusion(seed: int, updates: int = 6_000, guidance_scale: float = 1.5) -> dict[str, float]:
    """One model of labels and of no labels, sampled with guidance and without, by the second-order sampler."""
    with fresh_weights(seed):
        denoiser = UNetDenoiser((1, 28, 28), widths=(16, 32, 64), condition_dim=10)
    result = agentlib.train(
        "diffusion",
        data=short(seed),
        conditional=True,
        condition_dropout=0.1,
        steps=updates,
        seed=seed,
        learning_rate=Cosine(1e-3),
        batch_size=64,
        clip=True,
        sample_steps=25,
        sampler="dpm",
        backbone=denoiser,
        precision="bfloat16",
        progress=False,
    )

    def sampler(scale: float) -> Callable[[int, Tensor], Tensor]:
        how: Any = {"steps": 25, "sampler": "dpm", "guidance_scale": scale}
        return lambda n, label: result.model.sample(n, torch.eye(10)[label], **how)

    plain, guided = (judged(seed, sampler(scale)) for scale in (1.0, guidance_scale))
    unguided = {f"unguided_{name}": plain[name] for name in ("agreement", "frechet")}
    return guided | unguided | {"frechet_change": guided["frechet"] - plain["frechet"]}


def pixel_likelihood(seed: int, updates: int = 8_000, tested: int = 10_000) -> dict[str, float]:
    """All 60,000 images to learn from, bits drawn each time; the test images' bits are drawn once, as for the VAE."""
    found = parts(path("mnist.npz"), seed, validation=0.0)
    result = agentlib.train(
        "pixel_cnn",
        data=Splits(found.train, found.validation, found.test.sampled(200)),
        steps=updates,
        seed=seed,
        likelihood="bernoulli",
        drawn_bits=True,
        validation=0.0,
        learning_rate=Cosine(2e-3),
        batch_size=32,
        channels=32,
        layers=8,
        kernel=3,
        average=0.999,
        precision="bfloat16",
        progress=False,
    )
    with host_generator_kept(), torch.inference_mode():
        torch.default_generator.manual_seed(0)
        bits = torch.bernoulli(found.test.x)[:tested]

    def surprise(x: Tensor) -> Tensor:
        return torch.cat([density_score(result.model.log_likelihood, piece) for piece in x.split(128)])

    usual, few = surprise(bits), bits[:1_000]
    return {
        "nats": float(usual.double().mean()),
        "independent_pixels": -float(independent_bernoulli(found.train.x, bits).mean()),
        "inverted": detection(usual, surprise(1.0 - few)).auroc,
        "upside_down": detection(usual, surprise(few.flip(2))).auroc,
    }


AUTOENCODERS: dict[str, dict[str, Any]] = {
    "bottleneck": {"corruption": "none", "latent_dim": 16},
    "denoising": {"noise": 0.5},
    "masked": {"corruption": "masking", "patch": 4, "mask_ratio": 0.6},
    "contractive": {"corruption": "none", "contraction": 0.1, "noise": 0.1},
}


def autoencoders(seed: int, updates: int = 5_000) -> dict[str, float]:
    """Accuracies of logistic regression on 10 labels per class: on pixels, and on encoders' features."""
    splits = mnist(seed)
    labels, truth = splits.train.targets.numpy(), splits.test.targets.numpy()
    generator = np.random.default_rng([seed, 7])
    rows = np.stack([few_labels(labels, PER_CLASS, generator) for _ in range(DRAWS)])
    labelled = splits.train.x[torch.from_numpy(rows)]  # (draws, n, 1, 28, 28)

    def probed(features: Callable[[Tensor], Tensor]) -> float:
        few = features(labelled.flatten(0, 1)).reshape(DRAWS, rows.shape[1], -1)
        return float(linear_probe(few.numpy(), labels[rows], features(splits.test.x).numpy(), truth).mean())

    with fresh_weights(seed):
        encoder = MLP(28 * 28, (512, 256))
    found = {"pixels": probed(lambda x: x.flatten(1)), "untrained": probed(partial(in_pieces, encoder))}
    for name, change in AUTOENCODERS.items():
        how: Any = {"latent_dim": 64, "net_arch": (512, 256), "batch_size": 128, "backbone": "mlp", **change}
        result = agentlib.train(
            "denoising_autoencoder", data=short(seed), steps=updates, seed=seed, progress=False, **how
        )
        found[name] = probed(partial(in_pieces, result.backbone))
        found[f"{name}_gain"] = found[name] - max(found["pixels"], found["untrained"])
    return found


def short(seed: int) -> Splits:
    """The training images, and a few to judge the run's own samples by."""
    splits = mnist(seed)
    return Splits(splits.train, splits.validation, splits.validation.sampled(200))


def by_label(name: str, measure: Any, what: str, length: str) -> Experiment:
    return Experiment(
        name=f"{name}_mnist",
        family=FAMILY,
        data=f"55,000 images by label, {length}; {SAMPLES:,} samples",
        measure=measure,
        files=FILES,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim("agreement", f"{what}: a classifier that saw no sample agrees with the label", at_least=0.98),
            Claim("worst_class", "the same, worst class"),
            Claim("real", "the same classifier on the test images"),
            Claim("frechet", "Frechet distance of samples and test images in the classifier's features"),
            Claim("frechet_real", "the same between as many other test images"),
        ),
    )


def bound(name: str, measure: Any, what: str, length: str, at_most: float, reference: str) -> Experiment:
    return Experiment(
        name=name,
        family=FAMILY,
        data=f"60,000 images, bits drawn each time, {length}; 10,000 test images, bits drawn once",
        measure=measure,
        files=FILES,
        seeds=2,
        first_seed=FROM,
        claims=(
            Claim(
                "nats",
                f"{what}, -log p(x) by {CODES:,} importance-weighted codes",
                at_most=at_most,
                reference=reference,
            ),
            Claim("negative_elbo", "negative ELBO"),
            Claim("independent_pixels", "floor: independent pixels, exact"),
        ),
        note="One stochastic layer of 50 units and layers of 200 and 200. Burda et al. (2016) train far longer, on "
        "another binarization of the test images: their numbers are context.",
    )


EXPERIMENTS = [
    bound(
        "vae_mnist",
        likelihood(1, 60_000, 100, learning_rate=Cosine(2e-3)),
        "VAE",
        "100 epochs",
        88.0,
        "86.76, Burda et al. 2016",
    ),
    bound(
        "iwae_mnist",
        likelihood(50, 15_000, 100, learning_rate=Cosine(2e-3)),
        "VAE by the importance-weighted bound of 50 codes",
        "25 epochs",
        87.0,
        "84.78, Burda et al. 2016",
    ),
    by_label("wgan", wgan, "WGAN with penalty", "8,000 updates with 5 steps of the critic"),
    by_label("diffusion", diffusion, "diffusion, 25 steps", "6,000 updates of 64 in bfloat16"),
    Experiment(
        name="guided_diffusion_mnist",
        family=FAMILY,
        data=f"55,000 images by label, one label of ten hidden, 6,000 updates of 64 in bfloat16; {SAMPLES:,} samples "
        "of 25 steps",
        measure=guided_diffusion,
        files=FILES,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim("agreement", "guided by 1.5: a classifier that saw no sample agrees with the label", at_least=0.99),
            Claim("unguided_agreement", "the same model without guidance"),
            Claim("frechet", "guided, Frechet distance of samples and test images in the classifier's features"),
            Claim("unguided_frechet", "without guidance"),
            Claim("frechet_change", "the first minus the second", at_most=0.0),
            Claim("frechet_real", "as many other test images"),
        ),
    ),
    Experiment(
        name="pixel_cnn_mnist",
        family=FAMILY,
        data="60,000 images, bits drawn each time, 8,000 updates of 32 in bfloat16; 10,000 test images, bits "
        "drawn once",
        measure=pixel_likelihood,
        files=FILES,
        seeds=3,
        first_seed=FROM,
        claims=(
            Claim("nats", "PixelCNN, -log p(x), exact", at_most=86.0, reference="81.3, van den Oord et al. 2016"),
            Claim("independent_pixels", "floor: independent pixels, exact"),
            Claim("inverted", "as an alarm: AUROC of -log p(x) for inverted images", at_least=0.99),
            Claim("upside_down", "the same for digits upside down, of which some are digits, too"),
        ),
        note="32 channels, 8 gated layers. The paper trains far longer, on another binarization of the test: its "
        "number is context.",
    ),
    Experiment(
        name="autoencoders_mnist",
        family=FAMILY,
        data=f"55,000 images without labels, 5,000 updates of 128; {PER_CLASS} labels per class; 10,000 test images",
        measure=autoencoders,
        files=FILES,
        first_seed=FROM,
        claims=(
            Claim("pixels", "floor: linear classifier on pixels", statistic="mean"),
            Claim("untrained", "floor: on the features of an untrained encoder", statistic="mean"),
            *(
                claim
                for name in AUTOENCODERS
                for claim in (
                    Claim(name, f"on the features of the {name} autoencoder's encoder", statistic="mean"),
                    Claim(
                        f"{name}_gain",
                        f"{name}: less the better floor",
                        statistic="mean",
                        at_least=None if name == "contractive" else 0.0,
                        of="interval",
                    ),
                )
            ),
        ),
        note="Estimated: 10 minutes of a core a seed. Tried first, on seed 100, with 1,000 updates: pixels .750, "
        "denoising .764, masked .767, contractive .746, and a bottleneck of 64 numbers .743, of 16 .750; hence 16, "
        "which is in doubt.",
    ),
]
