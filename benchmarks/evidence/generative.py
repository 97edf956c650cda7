"""Generative models: likelihoods, modes, and labels that an independent classifier agrees with."""

import tempfile
from pathlib import Path

import gymnasium
import torch
from sklearn.svm import SVC

import agentlib
from agentlib import Agent
from agentlib.core import Cosine, Linear
from agentlib.data import parts
from agentlib.envs.experts import expert_for
from agentlib.experience.evaluation import episode_seed
from agentlib.experience.recording import record_episodes
from agentlib.metrics.samples import agreement, nearest_neighbor_accuracy, pixel_deviation
from benchmarks.evidence.references import GENERATIVE
from benchmarks.experiments import Claim, Experiment, known

PER_CLASS = 50
DETOUR, EPISODES = "agentlib/Detour-v0", 200


def vae(seed: int) -> dict[str, float]:
    result = agentlib.train("vae", data="digits", seed=seed, progress=False)
    measured = {name.removeprefix("test/"): value for name, value in result.measures.items()}
    return measured | {"independent_pixels": result.references["test/nats"]}


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


def detour(seed: int) -> dict[str, float]:
    """Two right ways: success of the diffusion policy, which way it goes, and what squared errors come to."""
    demos = record_episodes(expert_for(DETOUR), DETOUR, 100, seed=seed)
    agent = agentlib.train("diffusion_bc", demos=demos, seed=seed, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        agent = Agent.load(agent.save(Path(folder, "agent")))
    sampled, chosen = ways(agent, seed, deterministic=False), ways(agent, seed, deterministic=True)
    cloned = agentlib.train("bc", demos=demos, loss="mse", batch_size=256, steps=5_000, seed=seed, progress=False)
    return {
        "success": len(sampled) / EPISODES,
        "left": sampled.count("left") / EPISODES,
        "right": sampled.count("right") / EPISODES,
        "fewer": min(sampled.count(side) for side in ("left", "right")) / EPISODES,
        "chosen": len(chosen) / EPISODES,
        "squared_error": len(ways(cloned, seed, deterministic=True)) / EPISODES,
    }


def ways(agent, seed: int, deterministic: bool) -> list[str]:
    """The side of each episode that reached the goal."""
    env, sides = gymnasium.make(DETOUR), []
    for index in range(EPISODES):
        observation, _ = env.reset(seed=episode_seed(seed, index))
        done = False
        while not done:
            action, _ = agent.predict(observation, deterministic=deterministic)
            observation, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        sides += [info["side"]] if reward else []
    return sides


MODES = (
    Claim("modes", "modes covered, of 8", at_least=8),
    Claim("smallest_mode", "share of the smallest mode", at_least=0.08),
)


def denoising_autoencoder(seed: int) -> dict[str, float]:
    """Seeds from 200: others were looked at while it was written."""
    result = agentlib.train("denoising_autoencoder", data="digits", seed=200 + seed, progress=False)
    error, linear = (values["test/reconstruction_error"] for values in (result.measures, result.references))
    return {"error": error, "linear": linear, "share_of_linear": error / linear}


def pixels(**settings):
    """Seeds from 200: others were looked at while it was written."""

    def measure(seed: int) -> dict[str, float]:
        result = agentlib.train("pixel_cnn", data="digits", seed=200 + seed, progress=False, **settings)
        nats, floor = (values["test/nats"] for values in (result.measures, result.references))
        return {"nats": nats, "independent_pixels": floor}

    return measure


ATTENTION = {
    **{"backbone": "pixel_transformer", "channels": 32, "layers": 2, "dropout": 0.1, "steps": 1_600, "batch_size": 32},
    "learning_rate": Cosine(4e-3, 0.0),
}


WITHOUT_PENALTY = (
    ("clip", {"clip": 0.1, "instance_noise": Linear(0.1, 0.0)}, 8, "Weights within 0.1, and fading instance noise."),
    ("spectral", {"instance_noise": Linear(0.1, 0.0)}, 8, "Spectral norm, and fading instance noise."),
)

EXPERIMENTS = [
    Experiment(
        name="pixel_cnn_digits",
        family="Generative models",
        data="digits as bits, 70% to learn from, 1,500 updates",
        measure=pixels(),
        claims=(
            Claim("nats", "PixelCNN, -log p(x) of held-out digits, exact", at_most=17.4),
            Claim("independent_pixels", "floor: independent pixels, exact"),
        ),
    ),
    Experiment(
        name="pixel_transformer_digits",
        family="Generative models",
        data="digits as bits, 70% to learn from, 1,600 updates",
        measure=pixels(**ATTENTION),
        claims=(
            Claim("nats", "masked attention over pixels, -log p(x) of held-out digits, exact", at_most=17.4),
            Claim("independent_pixels", "floor: independent pixels, exact"),
        ),
    ),
    Experiment(
        name="denoising_autoencoder_digits",
        family="Generative models",
        data="digits, 70% to learn from, 5,000 updates; held-out digits with the same noise",
        measure=denoising_autoencoder,
        claims=(
            Claim("error", "denoising autoencoder, squared error of held-out digits"),
            Claim("linear", "floor: the best linear map, in closed form from the training part"),
            Claim("share_of_linear", "the first as a share of the second", at_most=0.85, of="interval"),
        ),
    ),
    Experiment(
        name="vae_digits",
        family="Generative models",
        data="digits as bits, 70% to learn from, 4,000 updates",
        measure=vae,
        claims=(
            Claim(
                "nats",
                "VAE, -log p(x) of held-out digits by IWAE-64",
                at_most=17.0,
                reference=known(GENERATIVE, "digits as bits", "test/nats"),
            ),
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
    *(
        Experiment(
            name=f"wgan_{constraint}_8gaussians",
            family="Generative models",
            data="8 Gaussians of deviation 0.1 on a circle of radius 2, 4,000 updates with 5 steps of the critic",
            measure=on_eight_gaussians("wgan", constraint=constraint, **settings),
            claims=(
                Claim("modes", "modes covered, of 8", at_least=at_least),
                Claim("smallest_mode", "share of the smallest mode"),
                Claim("within_3_deviations", "samples within 3 deviations", reference="0.989, the data"),
                Claim("spread", "spread, in deviations", reference="1, the data"),
            ),
            first_seed=200,
            note=note,
        )
        for constraint, settings, at_least, note in WITHOUT_PENALTY
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
    Experiment(
        name="diffusion_policy_detour",
        family="Generative models",
        data="agentlib/Detour-v0, 100 demonstrations, 5,000 updates, 200 episodes",
        measure=detour,
        claims=(
            Claim("success", "diffusion policy, actions drawn: goals reached", at_least=0.9, reference="1, the expert"),
            Claim("fewer", "the side that it takes less often", at_least=0.2, reference="0.5, the expert"),
            Claim("chosen", "diffusion policy, actions chosen: goals reached", at_least=0.9),
            Claim("squared_error", "cloning by squared error: goals reached", at_most=0.5),
        ),
    ),
]
