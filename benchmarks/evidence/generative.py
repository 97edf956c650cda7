"""Generative models: likelihoods, modes, and labels that an independent classifier agrees with."""

import torch
from sklearn.svm import SVC

import agentlib
from agentlib.data import parts
from agentlib.evaluation.samples import agreement, nearest_neighbor_accuracy, pixel_deviation
from benchmarks.experiments import Claim, Experiment

PER_CLASS = 50


def vae(seed: int) -> dict[str, float]:
    result = agentlib.train("vae", data="digits", seed=seed, progress=False)
    measured = {name.removeprefix("test/"): value for name, value in result.measures.items()}
    return measured | {"independent_pixels": result.references["test/nats"].value}


def on_eight_gaussians(what: str, **settings):
    def measure(seed: int) -> dict[str, float]:
        result = agentlib.train(what, data="8gaussians", seed=seed, progress=False, **settings)
        return {name.removeprefix("test/"): value for name, value in result.measures.items()}

    return measure


def conditional_gan(seed: int) -> dict[str, float]:
    """Judged by a support vector machine that learned from the test part, which the model never saw."""
    result = agentlib.train("gan", data="digits", seed=seed, progress=False)
    test = parts("digits", seed, validation=0.0).test
    classifier = SVC(C=10).fit(test.x.flatten(1).numpy(), test.y.numpy())
    label = torch.arange(10).repeat_interleave(PER_CLASS)
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        samples = result.model.sample(len(label), label)

    def classify(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(classifier.predict(x.flatten(1).numpy()))

    n = min(len(samples), len(test))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return {
        "agreement": agreement(classify, samples, label),
        "worst_class": min(agreement(classify, samples[label == one], label[label == one]) for one in range(10)),
        "deviation_ratio": pixel_deviation(samples, label) / pixel_deviation(test.x, test.y),
        "nearest_neighbor_accuracy": nearest_neighbor_accuracy(test.x[:n], samples[order][:n]),
    }


MODES = (
    Claim("modes", "modes covered, of 8", at_least=8),
    Claim("smallest_mode", "share of the smallest mode", at_least=0.08),
)

EXPERIMENTS = [
    Experiment(
        name="vae_digits",
        family="Generative models",
        data="digits as bits, 70% to learn from, 4,000 updates",
        measure=vae,
        claims=(
            Claim("nats", "VAE, -log p(x) of held-out digits by IWAE-64", at_most=17.0, reference="18.10, FVSBN"),
            Claim("negative_elbo", "VAE, negative ELBO"),
            Claim("independent_pixels", "floor: independent pixels, exact"),
        ),
    ),
    Experiment(
        name="diffusion_8gaussians",
        family="Generative models",
        data="8 Gaussians of deviation 0.1 on a circle of radius 2, 6,000 updates",
        measure=on_eight_gaussians("diffusion"),
        claims=(
            *MODES,
            Claim(
                "within_3_deviations",
                "samples within 3 deviations",
                at_least=0.96,
                at_most=0.995,
                reference="0.989, the data",
            ),
            Claim("spread", "spread, in deviations", at_least=0.9, at_most=1.1, reference="1, the data"),
        ),
    ),
    Experiment(
        name="wgan_8gaussians",
        family="Generative models",
        data="8 Gaussians of deviation 0.1 on a circle of radius 2, 4,000 updates with 5 steps of the critic",
        measure=on_eight_gaussians("wgan"),
        claims=(
            *MODES,
            Claim(
                "within_3_deviations",
                "samples within 3 deviations",
                at_least=0.90,
                at_most=0.995,
                reference="0.989, the data",
            ),
            Claim("spread", "spread, in deviations", reference="1, the data"),
        ),
    ),
    Experiment(
        name="gan_digits",
        family="Generative models",
        data="digits, 70% to learn from, 6,000 updates",
        measure=conditional_gan,
        claims=(
            Claim("agreement", "a classifier that never saw the model agrees with the label asked for", at_least=0.94),
            Claim("worst_class", "the same, worst class"),
            Claim(
                "deviation_ratio",
                "pixel deviation per label, beside real digits",
                at_least=0.5,
                at_most=1.5,
            ),
            Claim("nearest_neighbor_accuracy", "1-NN two-sample test, 0.5 is ideal"),
        ),
    ),
]
