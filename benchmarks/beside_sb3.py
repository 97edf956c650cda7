"""Experiments beside Stable-Baselines3: one learner with the same settings on both sides, seed by seed.

A difference may be as low as -margin. Margins, seeds and settings are fixed before any of the seeds from 200 on is run;
the deviation by which the number of seeds was chosen comes from other seeds, or from what others published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import nct, t

import agentlib
from agentlib.sb3.comparison import Run
from benchmarks.experiments import Claim, Experiment

FRESH = 200
"""The first seed of which a number is reported."""


@dataclass(frozen=True)
class Task:
    """A learner on an environment."""

    what: str
    env: str
    steps: int
    least: float | None = None
    """What our interquartile mean shall reach."""
    margin: float | None = None
    """What the mean of the paired differences may lose, by its whole interval; None where too few seeds can be run."""
    deviation: float = 0.0
    """Of these differences, as assumed."""
    source: str = ""
    """Of that number."""
    reference: str = ""
    seeds: int = 5
    first_seed: int = FRESH
    settings: dict[str, Any] = field(default_factory=dict)
    """Where they differ from the preset, the RL Zoo's."""
    note: str = ""


def beside(task: Task, seed: int) -> dict[str, float]:
    """One seed: the final agents in 100 episodes, and the training episodes of the last fifth of the steps."""
    compared: Any = {"env": task.env, "steps": task.steps, "seeds": [seed], "threads": 1, "progress": False}
    comparison = agentlib.compare(task.what, **compared, **task.settings)
    [ours], [sb3] = comparison.ours, comparison.sb3
    found = {"ours": ours.evaluation.mean, "sb3": sb3.evaluation.mean}
    late = {"ours_late": late_return(ours), "sb3_late": late_return(sb3)}
    return {**found, "difference": found["ours"] - found["sb3"], **late}


def late_return(run: Run) -> float:
    """The mean return of the episodes that ended in the last fifth of the training steps; of all, if none did."""
    steps, returns = np.array(run.log.episode_steps), np.array(run.log.episode_returns)
    late = returns[steps > 0.8 * run.log.steps]
    return float((late if len(late) else returns).mean())


def mean_return(run: Run) -> float:
    """The mean over all training steps of the return of the episode to which a step belongs."""
    lengths = np.diff(run.log.episode_steps, prepend=0)
    return float(np.average(run.log.episode_returns, weights=lengths))


def power(margin: float, deviation: float, seeds: int) -> float:
    """How likely the 95% interval of a mean difference of true value 0 lies above -margin, for normal differences."""
    freedom = seeds - 1
    return float(nct.sf(t.ppf(0.975, freedom), freedom, margin / deviation * seeds**0.5))


def design(margin: float, deviation: float, source: str, seeds: int, first_seed: int = FRESH) -> str:
    """The design of a row with a margin in words."""
    needed = next(count for count in range(2, 1_000) if power(margin, deviation, count) >= 0.8)
    return (
        f"Seeds from {first_seed} on; margin ({margin:g}) and number of seeds ({seeds}) were fixed before. "
        f"With a deviation of {deviation:g} of the paired differences ({source}) and no true difference, "
        f"{seeds} seeds meet it with probability {power(margin, deviation, seeds):.2f}; 80% need {needed}."
    )


def experiment(task: Task, family: str) -> Experiment:
    """The row of a task."""
    of: Any = {} if task.margin is None else {"at_least": -task.margin, "of": "interval"}
    name = task.what.upper()
    given = "".join(f", {key}={value}" for key, value in task.settings.items())
    return Experiment(
        name=f"{task.what}_{task.env.rpartition('-')[0].rpartition('/')[2].lower()}",
        family=family,
        data=f"{task.env}, the preset's settings{given}, {task.steps:,} steps",
        measure=partial(beside, task),
        seeds=task.seeds,
        first_seed=task.first_seed,
        claims=(
            Claim(
                "ours",
                f"{name}, final agent, 100 episodes",
                statistic="iqm",
                at_least=task.least,
                reference=task.reference,
            ),
            Claim("sb3", f"Stable-Baselines3's {name}, final agent", statistic="iqm"),
            Claim("difference", "paired difference, ours less SB3's", statistic="mean", **of),
        ),
        note=" ".join(
            (
                []
                if task.margin is None
                else [design(task.margin, task.deviation, task.source, task.seeds, task.first_seed)]
            )
            + ([task.note] if task.note else [])
        ),
    )
