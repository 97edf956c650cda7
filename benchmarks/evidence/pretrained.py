"""An encoder that has watched random play, in an imitator and in a Q-learner."""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
from torch import nn

import agentlib
from agentlib.backbones import NatureCNN, adam, load_backbone, save_backbone
from agentlib.backbones.choice import space_of
from agentlib.catalog import recipe_of
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Problem
from agentlib.data import Batches, frames
from agentlib.data.augmentation import RandomFrame
from agentlib.envs.experts import catch_expert
from agentlib.experience import record_episodes
from agentlib.families.views import ViewFacts
from agentlib.learners import BCConfig, SimCLR, SimCLRConfig, VAEConfig, run
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.runs.plan import job_of, settings_of
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


# Frames until a set return -------------------------------------------------------------------------------------------

ENCODERS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.1},
    "moco": {"temperature": 0.1, "queue_size": 1_024},
    "byol": {},
    "dino": {"local_views": 0},
    "cpc": {"ahead": 1},
}
"""Learners whose views are frames of one window, and what is not by default; CPC reads whole windows."""
PLAYED, LOOK, ENOUGH, MOST = 2_000, 500, 5.0, 20_000
"""Frames, or windows, of random play; steps between evaluations, of 20 episodes; and the return that is waited for."""


class Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts the frames that were seen."""

    seen = 0

    def reset(self, **how: Any) -> Any:
        self.seen += 1
        return self.env.reset(**how)

    def step(self, action: Any) -> Any:
        self.seen += 1
        return self.env.step(action)


def over_time(name: str, seed: int, updates: int = PRETRAINING, windows: int = PLAYED) -> tuple[nn.Module, int]:
    """An encoder of frames that a learner from views has trained on windows of random play, and how many were played.

    They are more than windows: the first frames of an episode end none.
    """
    env = Counted(gymnasium.make(CATCH))
    recipe, data = recipe_of(name), frames(env, windows, window=WINDOW, seed=seed)
    config = recipe.config(learning_rate=Cosine(2e-3, 0.0), batch_size=min(256, windows), **ENCODERS[name])
    with fresh_weights(seed):
        learner: Any = recipe.learner.build(NatureCNN((1, 36, 36)), config, ViewFacts(space_of(data.x[:, 0]), windows))
    views: Any = {} if name == "cpc" else {"transform": RandomFrame(), "views": 2}
    for _ in run(learner, Batches(data, config.batch_size, seed=seed, **views), updates, compile=False):
        pass
    return learner.network.backbone, env.seen


def frames_until(backbone: Any, seed: int, most: int) -> int:
    """Steps after which DQN first reaches the return in 20 episodes; all of them where it does not."""
    config = settings_of("dqn", CATCH, {}).config
    job = job_of(config, Problem(env=CATCH, steps=most, seed=seed, backbone=backbone, device="cpu"))
    due, reached = LOOK, most
    for clock, _ in run(job.learner, job.source, job.length.updates, compile=False):
        if clock.steps >= due:
            due += LOOK
            if agentlib.evaluate(job.product, CATCH, episodes=20, seed=seed + 1).mean >= ENOUGH:
                reached = int(clock.steps)
                break
    job.source.close()
    return reached


def frames_saved(seed: int, updates: int = PRETRAINING, most: int = MOST) -> dict[str, float]:
    found: dict[str, float] = {"scratch": frames_until("nature_cnn", seed, most)}
    config = VAEConfig(validation=0.0, learning_rate=Cosine(1e-3, 0.0))
    seen = frames(CATCH, PLAYED, seed=seed)
    vae: Any = agentlib.train(config, data=seen, backbone="nature_cnn", steps=updates, seed=seed, **QUIET)
    for name in ("vae", *ENCODERS):
        backbone, played = (vae.backbone, PLAYED) if name == "vae" else over_time(name, seed, updates)
        found[name] = played + frames_until(backbone, seed, most)
        found[f"{name}_ratio"] = found[name] / found["scratch"]
    return found


EXPERIMENTS = [
    Experiment(
        name="pretrained_frames",
        family="Bridges",
        data=f"agentlib/Catch-v0, the preset of DQN, until a return of {ENOUGH:g} in 20 episodes, of {MOST:,} steps",
        measure=frames_saved,
        first_seed=200,
        claims=(
            Claim("scratch", "DQN from scratch, frames", statistic="mean", reference="random: -0.8, expert: 10"),
            *(
                Claim(
                    f"{name}_ratio",
                    f"encoder of {title}, all frames over those from scratch",
                    statistic="mean",
                    at_most=1.0 if name == "simclr" else None,
                    of="interval",
                )
                for name, title in (
                    ("vae", "a VAE of single frames"),
                    ("simclr", "SimCLR"),
                    ("moco", "MoCo"),
                    ("byol", "BYOL"),
                    ("dino", "DINO without small crops"),
                    ("cpc", "CPC"),
                )
            ),
        ),
        note=f"Each encoder is the Nature CNN, has learned from random play, and learns on: the VAE's from {PLAYED:,} "
        "frames, the others from as many windows of four; all frames that were played count. Two views are two frames "
        "of a window; CPC predicts the next frame of it.",
    ),
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
