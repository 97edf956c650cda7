"""What a comparison with Stable-Baselines3 found (`agentlib.compare`): both sides' runs, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentlib.experience.evaluation import Evaluation
from agentlib.metrics.intervals import Estimate, Floats, estimate, interquartile_mean, paired_difference
from agentlib.sb3.recording import TrainingLog

Side = Literal["ours", "sb3"]


@dataclass(frozen=True, eq=False)
class Run:
    """One training run of one side, and the evaluation of its final agent."""

    seed: int
    went_first: bool
    """Whether this side trained before the other one on this seed."""
    log: TrainingLog
    evaluation: Evaluation

    def reached(self, until: float) -> float | None:
        """Seconds to the first evaluation during training with this mean return, start-up counted; None: never."""
        return next((check.seconds for check in self.log.checks if check.mean >= until), None)

    @property
    def training_seconds(self) -> float:
        """Training without start-up: from the first environment step to the end."""
        return self.log.seconds - self.log.startup_seconds


@dataclass(frozen=True, eq=False)
class Comparison:
    """The outcome of `compare`: both sides' runs, seed by seed, and what follows from them."""

    environment: str
    steps: int
    """Environment steps that each run was asked for."""
    episodes: int
    """Evaluation episodes of each final agent."""
    threads: int
    """Torch threads of both sides."""
    device: str
    hyperparameters: dict[str, Any]
    """Our config, field by field."""
    sb3_hyperparameters: dict[str, Any]
    """The arguments that Stable-Baselines3's class got."""
    differences: dict[str, Any]
    """Options of ours that Stable-Baselines3 lacks and that were used all the same."""
    ours: tuple[Run, ...]
    sb3: tuple[Run, ...]
    until: float | None = None
    """The mean return at which each run ended."""
    eval_every: int = 0
    """Environment steps between the evaluations of such runs."""
    algorithm: str = "DQN"
    """The name of Stable-Baselines3's class."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds."""
        return tuple(run.seed for run in self.ours)

    def scores(self, side: Side) -> Floats:
        """The mean evaluation return of each seed's final agent, shape (seeds,)."""
        return np.array([run.evaluation.mean for run in getattr(self, side)])

    def iqm(self, side: Side) -> Estimate:
        """The interquartile mean of the scores, with its 95% bootstrap interval over seeds."""
        return estimate(self.scores(side), interquartile_mean)

    @property
    def difference(self) -> Estimate:
        """The mean of our score minus SB3's on the same seed, with Student's 95% interval over seeds."""
        return paired_difference(self.scores("ours"), self.scores("sb3"))

    @property
    def speed(self) -> Estimate:
        """How many times as many environment steps a second we do once warm: median over seeds and its interval."""
        return self._ratio([run.log.warm_rate for run in self.ours], [run.log.warm_rate for run in self.sb3])

    @property
    def speed_from_first_step(self) -> Estimate:
        """SB3's training time without start-up over ours: median over seeds and its interval."""
        return self._ratio([run.training_seconds for run in self.sb3], [run.training_seconds for run in self.ours])

    @property
    def speed_with_startup(self) -> Estimate:
        """SB3's whole time over ours: median over seeds and its interval."""
        return self._ratio([run.log.seconds for run in self.sb3], [run.log.seconds for run in self.ours])

    def __str__(self) -> str:
        from agentlib.sb3.comparison_report import comparison_text

        return comparison_text(self)

    def save(self, out: str | Path) -> None:
        """Write results.json, learning_curves.png and report.html into a folder.

        Raises:
            ImportError: if matplotlib is absent, naming the extra; results.json is written before.
        """
        from agentlib.sb3.comparison_report import write_comparison

        write_comparison(self, Path(out))

    @property
    def speed_to_return(self) -> Estimate:
        """SB3's seconds to the return `until` over ours: median over seeds and its interval.

        A run that did not reach it counts with all of its seconds.

        Raises:
            ValueError: the runs did not end at a return.
        """
        if self.until is None:
            raise ValueError("the runs were not to end at a return: give until=")
        ours, sb3 = ([run.reached(self.until) or run.log.seconds for run in runs] for runs in (self.ours, self.sb3))
        return self._ratio(sb3, ours)

    @staticmethod
    def _ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
        return estimate(np.array(above) / np.array(below), np.median)
