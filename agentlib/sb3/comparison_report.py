"""The comparison with Stable-Baselines3, written down: table, JSON, picture and page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any

from agentlib.core.names import readable
from agentlib.metrics.intervals import Estimate
from agentlib.plots.curves import Curve, evaluation_curves, learning_curves
from agentlib.plots.pictures import png
from agentlib.plots.report import Highlight, Picture, Prose, Report, Table, made_with, provenance, write_json
from agentlib.sb3.recording import CHECK_EPISODES, VIDEO

Comparison = Any
"""An `agentlib.Comparison`, which calls this file."""
Run = Any

OURS, SB3 = "agentlib", "Stable-Baselines3"
_FEW_SEEDS = 5


def comparison_text(comparison: Comparison) -> str:
    """The comparison for a terminal: heading, numbers, seeds, and the sentence that sums it up."""
    if comparison.until is not None:
        summary = textwrap.fill(_verdict(comparison), 100)
        return f"{_title(comparison)}\n\n{_goal_table(comparison)}\n\n{summary}"
    summary = textwrap.fill(_summary(comparison), 100)
    return f"{_title(comparison)}\n\n{_main_table(comparison)}\n\n{_seed_table(comparison)}\n\n{summary}"


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write results.json, learning_curves.png and report.html into `out`, in this order."""
    out.mkdir(parents=True, exist_ok=True)
    origin = provenance()
    write_json(out / "results.json", comparison_results(comparison) | origin)
    curves = {
        name: [Curve(run.log.episode_steps, run.log.episode_returns) for run in runs]
        for name, runs in ((OURS, comparison.ours), (SB3, comparison.sb3))
    }
    if comparison.until is None:
        figure = learning_curves(curves, title=f"Learning curves, {comparison.environment}")
    else:
        figure = _evaluation_curves(comparison)
    picture = png(figure)
    (out / "learning_curves.png").write_bytes(picture)
    video = (out / VIDEO).read_bytes() if (out / VIDEO).is_file() else None
    report = _report if comparison.until is None else _goal_report
    (out / "report.html").write_text(report(comparison, picture, origin, video).html(), encoding="utf-8")


def comparison_results(comparison: Comparison) -> dict[str, Any]:
    """All numbers of a comparison, as they stand in results.json."""
    sides = {side: [_run_results(run) for run in getattr(comparison, side)] for side in ("ours", "sb3")}
    scores = {side: comparison.iqm(side) for side in sides}
    given = {field.name: getattr(comparison, field.name) for field in fields(comparison)}
    derived = ["seeds", "difference", "speed", "speed_from_first_step", "speed_with_startup"]
    if comparison.until is not None:
        derived.append("speed_to_return")
    return {**given, **{name: getattr(comparison, name) for name in derived}, "iqm": scores, **sides}


def _run_results(run: Run) -> dict[str, Any]:
    reached = ("mean", "std", "interval", "iqm", "returns", "lengths")
    return {
        "seed": run.seed,
        "went_first": run.went_first,
        **{name: getattr(run.evaluation, name) for name in reached},
        "seconds": run.log.seconds,
        "startup_seconds": run.log.startup_seconds,
        "training_seconds": run.training_seconds,
        "warm_steps_per_second": run.log.warm_rate,
        "environment_steps": run.log.steps,
        "evaluations": run.log.checks,
        "training_episode_steps": run.log.episode_steps,
        "training_episode_returns": run.log.episode_returns,
    }


def _goal_report(comparison: Comparison, picture: bytes, origin: dict[str, Any], video: bytes | None) -> Report:
    """The report on runs that ended at a return."""
    return Report(
        title=_title(comparison),
        summary=_verdict(comparison),
        highlights=tuple(
            Highlight(
                f"Seconds to a return of {comparison.until:g}, seed {ours.seed}",
                _reached(comparison, ours),
                f"{SB3}: {_reached(comparison, theirs)}",
            )
            for ours, theirs in list(zip(comparison.ours, comparison.sb3, strict=True))[:3]
        ),
        sections=(
            _goal_table(comparison),
            Picture(
                "Evaluations during training",
                picture,
                f"Mean return of evaluations against seconds of training, {OURS} and {SB3}",
                "Each point is an evaluation, each line a seed. A line ends where the return was reached.",
            ),
            *_video(video),
            _hyperparameter_table(comparison),
            _method(comparison),
            made_with(origin),
        ),
    )


def _video(video: bytes | None) -> tuple[Picture, ...]:
    if video is None:
        return ()
    return (Picture("Our agent", video, "A video of one episode", "The best of our final agents, one episode.", "gif"),)


def _reached(comparison: Comparison, run: Run) -> str:
    seconds = run.reached(comparison.until)
    return f"not in {readable(run.log.seconds)}" if seconds is None else readable(seconds)


def _verdict(comparison: Comparison) -> str:
    """The one sentence of a comparison of runs that ended at a return."""
    until, n = f"{comparison.until:g}", len(comparison.seeds)
    sides = {OURS: comparison.ours, SB3: comparison.sb3}
    texts = []
    for name, runs in sides.items():
        times = [run.reached(comparison.until) for run in runs]
        known = [time for time in times if time is not None]
        if not known:
            texts.append(f"{name} did not reach it in {comparison.steps:,} steps")
            continue
        seconds = f"{readable(median(known))} s" if len(known) > 2 else " and ".join(f"{readable(t)} s" for t in known)
        missing = "" if len(known) == n else f" in {len(known)} of {n} seeds"
        texts.append(f"{name} took {seconds}{' in the median' if len(known) > 2 else ''}{missing}")
    ahead = sum(
        (ours.reached(comparison.until) or math.inf) < (theirs.reached(comparison.until) or math.inf)
        for ours, theirs in zip(comparison.ours, comparison.sb3, strict=True)
    )
    return (
        f"To an evaluation with a mean return of {until}, start-up and compiling counted, {texts[0]} and {texts[1]}: "
        f"{OURS} was first in {ahead} of {_count(n, 'seed')}, and {_pace(comparison.speed_to_return.value)}"
        f"{' in the median' if n > 2 else ''}."
    )


def _goal_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            str(ours.seed),
            _reached(comparison, ours),
            _reached(comparison, theirs),
            f"{ours.log.steps:,}",
            f"{theirs.log.steps:,}",
            readable(ours.evaluation.mean),
            readable(theirs.evaluation.mean),
            "ours" if ours.went_first else "SB3",
        )
        for ours, theirs in zip(comparison.ours, comparison.sb3, strict=True)
    )
    times = ("Seconds, ours", "Seconds, SB3", "Steps, ours", "Steps, SB3")
    columns = ("Seed", *times, "Final return, ours", "Final return, SB3", "Went first")
    note = (
        f"Seconds from the start of training to the first evaluation, of {CHECK_EPISODES} episodes, with a mean return "
        f"of {comparison.until:g} or more; one every {comparison.eval_every:,} steps, their own time left out. "
        f"Final return: {comparison.episodes} other episodes."
    )
    return Table("Result", columns, rows, note)


def _evaluation_curves(comparison: Comparison) -> Any:
    sides = {
        name: [([check.seconds for check in run.log.checks], [check.mean for check in run.log.checks]) for run in runs]
        for name, runs in ((OURS, comparison.ours), (SB3, comparison.sb3))
    }
    return evaluation_curves(sides, comparison.until, title=f"Evaluations during training, {comparison.environment}")


def _report(comparison: Comparison, picture: bytes, origin: dict[str, Any], video: bytes | None) -> Report:
    return Report(
        title=_title(comparison),
        summary=_summary(comparison),
        highlights=(
            Highlight(
                "Return of our final agents",
                readable(comparison.iqm("ours").value),
                f"interquartile mean over seeds; {SB3}: {readable(comparison.iqm('sb3').value)}",
            ),
            Highlight(
                "Difference, ours less theirs",
                _signed(comparison.difference.value),
                f"95% interval, paired by seed: {comparison.difference.interval}",
            ),
            Highlight(
                "Training speed once warm",
                _pace(comparison.speed.value),
                f"{_pace(comparison.speed_with_startup.value)} with start-up",
            ),
        ),
        sections=(
            _main_table(comparison),
            Picture(
                "Learning curves",
                picture,
                f"Training return against environment steps, {OURS} and {SB3}",
                "Thin lines are single seeds. These returns are made while exploring, so mostly they lie below those "
                "of the final agents, which act deterministically.",
            ),
            *_video(video),
            _seed_table(comparison),
            _hyperparameter_table(comparison),
            _method(comparison),
            made_with(origin),
        ),
    )


def _title(comparison: Comparison) -> str:
    return f"{comparison.algorithm} on {comparison.environment}: {OURS} and SB3"


def _summary(comparison: Comparison) -> str:
    difference = comparison.difference
    low, high = difference.interval
    if len(comparison.seeds) < _FEW_SEEDS:
        verdict = f"Fewer than {_FEW_SEEDS} seeds do not tell which side's final agents are better"
    elif low > 0:
        verdict = "Our final agents do better"
    elif high < 0:
        verdict = f"{SB3}'s final agents do better"
    else:
        verdict = "The final agents of the two sides cannot be told apart"
    return (
        f"{verdict}: the difference in return is {_signed_estimate(difference)}. Over "
        f"{_count(len(comparison.seeds), 'seed')} of {comparison.steps:,} steps, ours trained "
        f"{_pace(comparison.speed.value, SB3)} once warm, and {_pace(comparison.speed_with_startup.value)} with "
        "start-up."
    )


def _main_table(comparison: Comparison) -> Table:
    rows = (
        (
            "Final return, IQM of seeds",
            str(comparison.iqm("ours")),
            str(comparison.iqm("sb3")),
            _signed_estimate(comparison.difference),
        ),
        _speed_row("Steps per second, warm", comparison, lambda run: run.log.warm_rate, comparison.speed),
        _speed_row(
            "Seconds, from the first step",
            comparison,
            lambda run: run.training_seconds,
            comparison.speed_from_first_step,
        ),
        _speed_row("Seconds, with start-up", comparison, lambda run: run.log.seconds, comparison.speed_with_startup),
    )
    note = (
        "In brackets: 95% intervals over seeds. The difference is ours minus theirs, paired by seed. Speeds and times "
        "are medians over seeds; a factor above 1 means that ours is faster."
    )
    if 1 < len(comparison.seeds) < _FEW_SEEDS:
        note += " Intervals of so few seeds are too narrow: take them as a hint."
    return Table("Result", ("", OURS, SB3, "Difference or factor"), rows, note)


def _speed_row(
    label: str, comparison: Comparison, measure: Callable[[Run], float], factor: Estimate
) -> tuple[str, ...]:
    ours, sb3 = (median(measure(run) for run in runs) for runs in (comparison.ours, comparison.sb3))
    return label, readable(ours), readable(sb3), f"x {factor}"


def _seed_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            str(ours.seed),
            readable(ours.evaluation.mean),
            readable(sb3.evaluation.mean),
            _signed(ours.evaluation.mean - sb3.evaluation.mean),
            readable(ours.log.seconds),
            readable(sb3.log.seconds),
            "ours" if ours.went_first else "SB3",
        )
        for ours, sb3 in zip(comparison.ours, comparison.sb3, strict=True)
    )
    columns = ("Seed", "Return, ours", "Return, SB3", "Difference", "Seconds, ours", "Seconds, SB3", "Went first")
    note = f"Return: the mean of {comparison.episodes} episodes. Seconds: the whole training run, start-up included."
    return Table("Seeds", columns, rows, note)


def _hyperparameter_table(comparison: Comparison) -> Table:
    ours = comparison.hyperparameters
    theirs = dict(comparison.sb3_hyperparameters)
    theirs |= theirs.pop("policy_kwargs", {})
    names = [*(name for name in ours if name in theirs), *(name for name in theirs if name not in ours)]
    names += comparison.differences
    rows = tuple((name, _shown(ours, name), _shown(theirs, name)) for name in dict.fromkeys(names))
    note = f"Options of ours that {SB3} lacks and that are switched off are left out."
    if comparison.differences:
        note = f"Not the same on both sides: {', '.join(comparison.differences)}, which {SB3} lacks."
    return Table("Hyperparameters", ("", OURS, SB3), rows, note)


def _method(comparison: Comparison) -> Prose:
    threads = _count(comparison.threads, "torch thread")
    training = (
        f"For each seed both libraries trained in one process with {threads} and device {comparison.device!r}, taking "
        "turns to go first, on fresh environments inside the same thin wrapper, which notes steps, returns and times."
    )
    timing = (
        "Training with start-up runs from the call that begins training to its return; imports are not in it. "
        "Training from the first step leaves out what comes before the first environment step. The warm rate is "
        "taken over the second half of the environment steps, learning included."
    )
    scoring = (
        f"Each final agent then played {comparison.episodes} episodes with deterministic actions, both sides the same "
        "ones, reset with seeds of 2**30 and above, which no training used. A seed's score is the mean return of its "
        "episodes; IQM is the interquartile mean of these scores. Intervals are 95% intervals over seeds: Student's "
        "for the difference, percentile bootstrap for the others. The latter are too narrow for few seeds: of normal "
        "data, those of 5 cover the truth in about 85% of all cases."
    )
    return Prose("How it was measured", (training, timing, scoring))


def _shown(values: dict[str, Any], name: str) -> str:
    value = values.get(name, "-")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _pace(factor: float, other: str = "") -> str:
    """How much faster or slower: 2.1 times as fast (as another), or 6% slower (than it) for a factor of 0.939."""
    if factor < 1.0:
        return f"{100.0 * (1.0 - factor):.0f}% slower" + (f" than {other}" if other else "")
    return f"{readable(factor)} times as fast" + (f" as {other}" if other else "")


def _signed(number: float) -> str:
    return readable(number, sign=True)


def _signed_estimate(difference: Estimate) -> str:
    low, high = difference.interval
    interval = f" [{_signed(low)}, {_signed(high)}]" if difference.interval.known else ""
    return f"{_signed(difference.value)}{interval}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
