"""Learners of real-valued actions beside Stable-Baselines3's, with the same settings."""

from functools import partial

import agentlib
from benchmarks.experiments import Claim, Experiment

PENDULUM = "Pendulum-v1, the RL Zoo's settings, 20,000 steps"
ZOO = "-157 (SAC), -152 (TD3): one agent of the RL Zoo each"
MARGIN = -20
"""The most that the paired difference may lose, chosen before any seed was run; random play is 1,080 below the zoo."""


def pendulum(what: str, seed: int) -> dict[str, float]:
    comparison = agentlib.compare(what, env="Pendulum-v1", steps=20_000, seeds=[seed], threads=1, progress=False)
    ours, theirs = comparison.ours[0].evaluation.mean, comparison.sb3[0].evaluation.mean
    return {"ours": ours, "sb3": theirs, "difference": ours - theirs}


EXPERIMENTS = [
    Experiment(
        name=f"{what}_pendulum",
        family="Real-valued actions",
        data=PENDULUM,
        measure=partial(pendulum, what),
        seeds=5,
        claims=(
            Claim("ours", f"{what.upper()}, final agent, 100 episodes", statistic="iqm", at_least=-200, reference=ZOO),
            Claim("sb3", f"Stable-Baselines3's {what.upper()}, final agent", statistic="iqm"),
            Claim("difference", "paired difference, ours less SB3's", statistic="mean", at_least=MARGIN, of="interval"),
        ),
    )
    for what in ("sac", "td3")
]
