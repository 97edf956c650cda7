"""The pages of runs: what was trained, what it reached, its pictures and settings; of one, or of several together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentlib.backbones.files import replacing
from agentlib.core.config import config_to_json
from agentlib.core.names import readable
from agentlib.core.recipe import Problem, Recipe
from agentlib.metrics.intervals import t_interval
from agentlib.plots.report import Code, Highlight, Picture, Prose, Report, Table, made_with
from agentlib.runs.result import Result
from agentlib.runs.several import Run, by_kind, scalars_of

USUAL = ("eval/mean_reward", "rollout/ep_rew_mean", "eval/loss", "train/loss")
"""Metrics that are drawn by default: the first one that all runs have."""
FILM = re.compile(r"step_[0-9]{12,}\.(gif|mp4)")
LARGEST_FILM = 1 << 22
"""Bytes of a film that a page holds."""
LABELS = {
    "eval/mean_reward": "Mean return of evaluations",
    "rollout/ep_rew_mean": "Mean training return\n(last 100 episodes, exploring)",
    "eval/loss": "Validation loss",
    "train/loss": "Training loss",
}


def write_report(path: Path, recipe: Recipe, problem: Problem, result: Result, facts: dict[str, Any]) -> None:
    """Writes one HTML page that needs nothing beside itself."""
    metrics = result.metrics
    reached = tuple(
        (m.name, readable(m.value), "" if m.reference is None else readable(m.reference), m.whose)
        for m in result.judged
    )
    numbers = tuple((name, readable(value)) for name, value in sorted(metrics.items()))
    settings = tuple((name, _text(value)) for name, value in config_to_json(problem.config).items())
    sections: list[Any] = []
    if reached:
        sections.append(Table("Test metrics", ("", "value", "baseline", "baseline of"), reached))
    sections += [Picture(p.stem.replace("_", " ").capitalize(), p.read_bytes(), p.stem) for p in result.pictures]
    sections += _last_film(path.parent)
    if numbers:
        sections.append(Table("Last metrics of the training", ("", "value"), numbers))
    if facts:
        sections.append(Prose("Facts", tuple(f"{name}: {_rounded(value)}" for name, value in facts.items())))
    sections += [Table("Settings", ("", "value"), settings), *_use_of(path.parent), made_with()]
    cards = [
        Highlight(name.removeprefix("test/"), value, f"baseline {reference}: {whose}" if reference else "")
        for name, value, reference, whose in reached[:3]
    ]
    returns = {"eval/mean_reward": "evaluation", "rollout/ep_rew_mean": "last training episodes"}
    cards += [Highlight("mean return", readable(metrics[n]), label) for n, label in returns.items() if n in metrics]
    subject = problem.key or "data of the caller's"
    page = Report(
        f"{recipe.name} on {subject}", f"{recipe.summary}. Seed {problem.seed}.", tuple(cards), tuple(sections)
    )
    with replacing(path) as temporary:
        temporary.write_text(page.html(), encoding="utf-8")


def _last_film(folder: Path) -> list[Picture]:
    """The last film of the run, if it has one that a page can hold."""
    films = sorted(path for path in (folder / "videos").glob("step_*") if FILM.fullmatch(path.name))
    if not films or films[-1].stat().st_size > LARGEST_FILM:
        return []
    steps = int(films[-1].stem.removeprefix("step_"))
    note = f"An evaluation episode; {len(films)} films are in {folder / 'videos'}."
    return [Picture(f"At step {steps:,}", films[-1].read_bytes(), "film", note, films[-1].suffix.removeprefix("."))]


def _use_of(folder: Path) -> list[Code]:
    """The lines by which the products of a run are used, where there are any."""
    loads = {
        "agent": "from agentlib import Agent\n\nagent = Agent.load({0!r})\naction = agent.act(observation)",
        "model": "from agentlib.runs.models import load_model\n\nmodel, about = load_model({0!r})",
        "backbone": "from agentlib.backbones import load_backbone\n\nbackbone = load_backbone({0!r})",
    }
    files = {kind: folder / f"{kind}.safetensors" for kind in loads}
    return [Code(f"Use the {kind}", loads[kind].format(str(file))) for kind, file in files.items() if file.is_file()]


def report_of(runs: Sequence[Run]) -> Report:
    """The page of runs side by side; runs that differ in their seed only are one column, with Student's interval."""
    from agentlib.plots.pictures import png

    kinds = by_kind(runs)
    names = list(dict.fromkeys(name for one in runs for name in one.numbers))
    reached = [(name, *(_spread(same, name) for same in kinds.values())) for name in names]
    sections: list[Any] = []
    if reached and len(runs) == 1:
        baselines = runs[0].results.get("references", {})
        rows = [(*row, *_baseline(baselines.get(row[0]))) for row in reached]
        sections.append(Table("Results", ("", "value", "baseline", "baseline of"), tuple(rows)))
    elif reached:
        note = "Means over seeds; in brackets the 95% interval by Student's distribution, and the number of seeds."
        sections.append(Table("Results", ("", *kinds), tuple(reached), note if len(runs) > len(kinds) else ""))
    if (curve := _curves_of(kinds)) is not None:
        sections.append(Picture("Learning curves", png(curve), "learning curves"))
    for one in runs if len(runs) == 1 else ():
        files = [one.folder / Path(name).name for name in map(str, one.results.get("pictures", ()))]
        shown = [file for file in files if file.is_file() and file.suffix == ".png"]
        sections += [Picture(p.stem.replace("_", " ").capitalize(), p.read_bytes(), p.stem) for p in shown]
    rows = [
        (name, *(_text(same[0].record["config"].get(name, "-")) for same in kinds.values()))
        for name in dict.fromkeys(name for one in runs for name in one.record.get("config", {}))
    ]
    differing = tuple(row for row in rows if len(set(row[1:])) > 1)
    if len(kinds) > 1:
        sections.append(Table("Settings that differ", ("", *kinds), differing or (("none", *[""] * len(kinds)),)))
    alike = tuple((row[0], row[1]) for row in rows if row not in differing)
    sections += [Table("Settings", ("", "value"), alike)] if alike else []
    sections += _use_of(runs[0].folder) if len(runs) == 1 else []
    places = tuple((str(one.folder), f"seed {one.record.get('seed')}", one.results.get("made", "")) for one in runs)
    sections.append(Table("Runs", ("folder", "", "made"), places))
    count = f"{len(runs)} runs of {len(kinds)} kinds" if len(kinds) > 1 else f"{len(runs)} run{'s' * (len(runs) > 1)}"
    count += "; those of one kind differ in their seed only" if len(runs) > len(kinds) else ""
    cards = [Highlight(name, _spread(same, names[0]), names[0]) for name, same in list(kinds.items())[:3] if names]
    return Report(", ".join(kinds), f"{count}.", tuple(cards), tuple(sections))


def _baseline(reference: Any) -> tuple[str, str]:
    value, whose = reference if isinstance(reference, list) and len(reference) == 2 else (None, "")
    return (readable(value), str(whose)) if isinstance(value, int | float) else ("", "")


def _spread(same: Sequence[Run], name: str) -> str:
    """A number of runs that differ in their seed: their mean, its interval and their count."""
    values = [one.numbers[name] for one in same if name in one.numbers]
    if len(values) < 2:
        return readable(values[0]) if values else "-"
    low, high = t_interval(values)
    return f"{readable(float(np.mean(values)))} [{readable(low)}, {readable(high)}] ({len(values)})"


def _curves_of(kinds: Mapping[str, Sequence[Run]]) -> Any:
    """The usual learning curves, where the runs have such; None else."""
    found = {name: [scalars_of(one.folder) for one in same] for name, same in kinds.items()}
    each = [one for same in found.values() for one in same]
    metric = next((name for name in USUAL if all(name in one for one in each)), None)
    return None if metric is None else curves_of(found, metric)


def curves_of(found: Mapping[str, Sequence[Mapping[str, Mapping[int, float]]]], metric: str) -> Any:
    """A picture of one metric of runs by kind, as `scalars_of` gives them."""
    from agentlib.plots.curves import Curve, learning_curves

    sides = {
        name: [Curve(*zip(*sorted(one[metric].items()), strict=True)) for one in same] for name, same in found.items()
    }
    return learning_curves(sides, title="Learning curves", window=1, y_label=LABELS.get(metric, metric))


def _rounded(value: Any) -> str:
    return readable(value) if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    """A setting as it is written in Python; schedules may hold others."""
    if isinstance(value, dict) and "schedule" in value:
        arguments = ", ".join(f"{name}={_text(item)}" for name, item in value.items() if name != "schedule")
        return f"{value['schedule']}({arguments})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
