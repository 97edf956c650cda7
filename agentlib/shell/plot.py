"""`agentlib plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.shell.flags import Options, count, flag
from agentlib.shell.stopping import UsageError

USUAL = ("eval/mean_reward", "rollout/ep_rew_mean", "eval/loss", "train/loss")
"""Metrics that are drawn by default: the first one that all runs have."""
LABELS = {
    "eval/mean_reward": "Mean return of evaluations",
    "rollout/ep_rew_mean": "Mean training return\n(last 100 episodes, exploring)",
    "eval/loss": "Validation loss",
    "train/loss": "Training loss",
}


@dataclass(frozen=True, kw_only=True)
class Plot(Options):
    """Draw the learning curves of runs; runs that differ in their seed only become one curve, their mean."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...", help_behavior_hint="")]
    """The runs' folders."""
    metric: Annotated[str | None, flag("NAME")] = None
    """The metric; the default is the return of evaluations or episodes, or else the loss."""
    out: Path = Path("curves.png")
    """The file to write."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Plot, prog="agentlib plot", args=arguments)
    if not options.folders:
        raise UsageError("say which runs: agentlib plot DIR ...")
    if options.out.suffix != ".png":
        raise UsageError(f"a picture is written as .png, not as {options.out.name}")
    from agentlib.plots.curves import Curve, learning_curves
    from agentlib.plots.pictures import save
    from agentlib.runs.folder import RunFolder

    records = [RunFolder(folder).record() for folder in options.folders]
    found = [_scalars(folder) for folder in options.folders]
    metric = options.metric or next((name for name in USUAL if all(name in each for each in found)), None)
    lacking = [folder for folder, each in zip(options.folders, found, strict=True) if metric not in each]
    if metric is None or lacking:
        known = ", ".join(sorted(set.intersection(*map(set, found)))) or "none"
        which = f"{lacking[0]} has no metric {metric}" if metric else "the runs have no metric in common that is usual"
        raise UsageError(f"{which}; with --metric: {known}")
    groups: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        groups.setdefault(_without_seed(record), []).append(row)
    names = [_name(records[rows[0]]) for rows in groups.values()]
    sides = {}
    for name, rows in zip(names, groups.values(), strict=True):
        unique = name if names.count(name) == 1 else f"{name}, {options.folders[rows[0]].name}"
        sides[unique] = [Curve(*zip(*sorted(found[row][metric].items()), strict=True)) for row in rows]
    figure = learning_curves(sides, title="Learning curves", window=1, y_label=LABELS.get(metric, metric))
    print(f"{save(figure, options.out)}: {metric} of {count(len(found), 'run')}")
    return 0


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The finite values of each metric in the TensorBoard events of a run, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    return {name: {e.step: e.value for e in events.Scalars(name) if math.isfinite(e.value)} for name in names}


def _without_seed(record: dict[str, Any]) -> str:
    """What runs of one curve have in common."""
    names = ("what", "env", "env_kwargs", "data", "demos", "expert", "steps", "n_envs", "backbone", "config")
    return json.dumps({name: record.get(name) for name in names}, sort_keys=True)


def _name(record: dict[str, Any]) -> str:
    subject = next((str(record[name]) for name in ("env", "data", "demos") if record.get(name)), "")
    return f"{record.get('what')} on {subject}" if subject else str(record.get("what"))
