"""An encoder that has watched random play, in an imitator and in a Q-learner."""

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

import agentlib
from agentlib.backbones import NatureCNN, adam, load_backbone, save_backbone
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Batches, frames
from agentlib.data.augmentation import RandomFrame
from agentlib.envs.experts import catch_expert
from agentlib.experience import record_episodes
from agentlib.learners import BCConfig, SimCLR, SimCLRConfig, VAEConfig, run
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.runs.plan import settings_of
from benchmarks.experiments import Claim, Experiment

CATCH = "agentlib/Catch-v0"
QUIET: dict[str, Any] = {"progress": False, "compile": False}
DEMONSTRATIONS, UPDATES = 5, 3_000
WINDOW, WINDOWS, PRETRAINING = 4, 8_000, 800
HEAD_RATE = 1e-2
"""Over a frozen encoder, where only one linear layer learns; else the default of 1e-3."""
Q_STEPS = 12_000
OTHERS = 100
"""Added to the seeds: the settings were chosen on the first ones."""


def contrasted(seed: int) -> nn.Module:
    """By SimCLR: two views are two frames of one window."""
    config = SimCLRConfig(temperature=0.1)
    with fresh_weights(seed):
        network = Projector(NatureCNN((1, 36, 36)), config.projection_dim)
    views = Batches(
        frames(CATCH, WINDOWS, window=WINDOW, seed=seed), config.batch_size, transform=RandomFrame(), views=2, seed=seed
    )
    for _ in run(SimCLR(network, adam(Cosine(2e-3, 0.0)), config), views, PRETRAINING, compile=False):
        pass
    return network.backbone


def rebuilt(seed: int) -> nn.Module:
    """By a VAE of single frames."""
    config = VAEConfig(validation=0.0, learning_rate=Cosine(1e-3, 0.0))
    result: Any = agentlib.train(config, data="catch_frames", backbone="nature_cnn", steps=1_500, seed=seed, **QUIET)
    network: nn.Module = result.backbone
    return network


def pretrained(seed: int) -> dict[str, float]:
    seed += OTHERS
    demos = record_episodes(catch_expert, CATCH, DEMONSTRATIONS, seed=seed)
    found: dict[str, float] = {}

    def imitate(name: str, backbone: Any, **settings: Any) -> None:
        agent: Any = agentlib.train(
            BCConfig(**settings), demos=demos, backbone=backbone, steps=UPDATES, seed=seed, **QUIET
        )
        found[name] = agentlib.evaluate(agent, CATCH, episodes=200, seed=seed).mean

    with tempfile.TemporaryDirectory() as folder:
        simclr = save_backbone(contrasted(seed), Path(folder) / "simclr")
        vae = save_backbone(rebuilt(seed), Path(folder) / "vae")
        imitate("scratch", "nature_cnn")
        imitate("simclr", load_backbone(simclr).requires_grad_(False), learning_rate=HEAD_RATE)
        imitate("simclr_tuned", simclr)
        imitate("vae", load_backbone(vae).requires_grad_(False), learning_rate=HEAD_RATE)
    return found | {f"{name}_difference": found[name] - found["scratch"] for name in ("simclr", "simclr_tuned", "vae")}


def q_learning(seed: int) -> dict[str, float]:
    seed += OTHERS
    found = {}
    for name, backbone in (("scratch", "nature_cnn"), ("simclr", contrasted(seed))):
        config = settings_of("dqn", CATCH, {}).config
        agent: Any = agentlib.train(config, env=CATCH, backbone=backbone, steps=Q_STEPS, seed=seed, **QUIET)
        found[name] = agentlib.evaluate(agent, CATCH, episodes=100, seed=seed).mean
    return found | {"difference": found["simclr"] - found["scratch"]}


EXPERIMENTS = [
    Experiment(
        name="pretrained_catch",
        family="Bridges",
        data=f"agentlib/Catch-v0: {DEMONSTRATIONS} demonstrations, {UPDATES:,} updates",
        measure=pretrained,
        claims=(
            Claim("scratch", "BC from scratch", statistic="mean", reference="random: -0.8, expert: 10"),
            Claim("simclr", "BC on the encoder of SimCLR, frozen", statistic="mean"),
            Claim("simclr_difference", "the same less scratch, paired", statistic="mean", at_least=0, of="interval"),
            Claim("simclr_tuned_difference", "the encoder learning on, less scratch, paired", statistic="mean"),
            Claim("vae_difference", "the encoder of a VAE, frozen, less scratch, paired", statistic="mean"),
        ),
        note="All are the Nature CNN. SimCLR's two views are two frames of random play, up to three steps apart: what "
        "they share is where things go. Shifted or flipped views would be other states. The VAE sees single frames: it "
        "keeps each pixel, and that two places are next to each other is nothing to it.",
    ),
    Experiment(
        name="pretrained_catch_dqn",
        family="Bridges",
        data=f"agentlib/Catch-v0, {Q_STEPS:,} steps, the preset",
        measure=q_learning,
        claims=(
            Claim("scratch", "DQN from scratch", statistic="mean", reference="random: -0.8, expert: 10"),
            Claim("simclr", "DQN on the encoder of SimCLR, which learns on", statistic="mean"),
            Claim("difference", "the same less scratch, paired", statistic="mean"),
        ),
        note=f"The budgets differ: the encoder has seen {WINDOWS:,} windows of {WINDOW} frames of random play, which "
        f"do not count among the {Q_STEPS:,} steps; DQN from scratch has not.",
    ),
]
