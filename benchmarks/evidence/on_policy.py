"""PPO and A2C beside Stable-Baselines3's, with the same settings.

The margins are the most that a paired difference may lose; they were chosen before any seed was run.
"""

from functools import partial
from typing import NamedTuple

import agentlib
from benchmarks.experiments import Claim, Experiment


class Task(NamedTuple):
    """A learner on an environment with the RL Zoo's settings."""

    what: str
    env: str
    steps: int
    least: float
    margin: float
    reference: str
    seeds: int


TASKS = (
    Task("ppo", "CartPole-v1", 100_000, 475, -25, "500 (RL Zoo, 100,000 steps)", 10),
    Task("ppo", "Acrobot-v1", 300_000, -100, -10, "-73.5 (RL Zoo, 1,000,000 steps)", 5),
    Task("ppo", "Pendulum-v1", 100_000, -250, -50, "-172 (RL Zoo, with state-dependent exploration)", 5),
    Task("a2c", "CartPole-v1", 500_000, 475, -25, "500 (RL Zoo, 500,000 steps)", 5),
)


def beside(task: Task, seed: int) -> dict[str, float]:
    comparison = agentlib.compare(task.what, env=task.env, steps=task.steps, seeds=[seed], threads=1, progress=False)
    ours, theirs = comparison.ours[0].evaluation.mean, comparison.sb3[0].evaluation.mean
    return {"ours": ours, "sb3": theirs, "difference": ours - theirs}


EXPERIMENTS = [
    Experiment(
        name=f"{task.what}_{task.env.partition('-')[0].lower()}",
        family="On-policy",
        data=f"{task.env}, the RL Zoo's settings, {task.steps:,} steps",
        measure=partial(beside, task),
        seeds=task.seeds,
        claims=(
            Claim(
                "ours",
                f"{task.what.upper()}, final agent, 100 episodes",
                statistic="iqm",
                at_least=task.least,
                reference=task.reference,
            ),
            Claim("sb3", f"Stable-Baselines3's {task.what.upper()}, final agent", statistic="iqm"),
            Claim(
                "difference",
                "paired difference, ours less SB3's",
                statistic="mean",
                at_least=task.margin,
                of="interval",
            ),
        ),
    )
    for task in TASKS
]
