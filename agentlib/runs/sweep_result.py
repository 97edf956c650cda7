"""The result of a sweep, and its trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentlib.core.names import readable
from agentlib.metrics.intervals import Estimate, paired_difference


class Trial(NamedTuple):
    """Settings that were tried."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL, or RUNNING."""
    value: float | None
    """The mean of its runs' scores; of a pruned trial, where it ended."""
    settings: dict[str, Any]
    """The hyperparameters that were searched."""
    seeds: tuple[int, ...]
    """Of its runs."""
    error: str
    """Why it failed."""

    def __str__(self) -> str:
        value = "" if self.value is None else f" {readable(self.value)}"
        settings = ", ".join(f"{name} {shown_setting(setting)}" for name, setting in self.settings.items())
        words = {"COMPLETE": value, "PRUNED": f"{value} (pruned)", "FAIL": f" failed: {self.error}"}
        return f"trial {self.number}:{words.get(self.state, '')}; {settings}"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The result of a search."""

    folder: Path
    objective: str
    """The score that was made best, such as "eval/mean_reward"."""
    lower_is_better: bool
    trials: tuple[Trial, ...]
    best: Trial
    importance: dict[str, float]
    """The share of each hyperparameter in what tells good trials from others (PED-ANOVA), the largest first."""
    best_scores: tuple[float, ...]
    """Of the best settings, on seeds that no trial had, NaN where the run diverged; none where no comparison was asked
    for."""
    default_scores: tuple[float, ...]
    """Of the settings that the search began with, on the same seeds."""

    @property
    def difference(self) -> Estimate | None:
        """Best minus default on the fresh seeds on which neither diverged, with its 95% interval."""
        pairs = zip(self.best_scores, self.default_scores, strict=True)
        finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
        return paired_difference(*zip(*finite, strict=True)) if finite else None

    @property
    def comparison(self) -> str:
        """The difference in words, and how many runs have no score; empty where no comparison was asked for."""
        if not self.best_scores:
            return ""
        count, better = len(self.best_scores), "lower" if self.lower_is_better else "higher"
        words = "unknown" if self.difference is None else f"{self.difference} ({better} is better)"
        for settings, scores in (("best", self.best_scores), ("default", self.default_scores)):
            if failed := sum(map(math.isnan, scores)):
                words += f"; {failed} of {count} runs of the {settings} settings diverged"
        return f"best minus default on {count} fresh seeds: {words}"

    def __str__(self) -> str:
        states = [trial.state for trial in self.trials]
        words = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
        counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items())
        settings = ", ".join(f"{name} {shown_setting(value)}" for name, value in self.best.settings.items())
        best = f"best: trial {self.best.number}, {self.objective} {readable(self.best.value or 0.0)}; {settings}"
        lines = [f"{len(states)} trials: {counts}", best]
        lines += [self.comparison] * bool(self.comparison)
        return "\n".join(lines)


def best_of(trials: Sequence[Trial], lower_is_better: bool) -> Trial:
    """The best of the completed trials.

    Raises:
        ValueError: there is none.
    """
    done = [trial for trial in trials if trial.state == "COMPLETE"]
    if not done:
        errors = [trial.error for trial in trials if trial.error]
        raise ValueError(f"no trial was completed{'; the first error: ' * bool(errors)}{(errors or [''])[0]}")
    return min(done, key=lambda trial: ((trial.value or 0.0) * (1.0 if lower_is_better else -1.0), trial.number))


def shown_setting(value: Any) -> str:
    """A hyperparameter's value, short."""
    if isinstance(value, list | tuple):
        return "x".join(map(str, value)) or "()"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
