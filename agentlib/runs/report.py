"""The page of one run: what was trained, what it reached, its pictures and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentlib.core.config import config_to_json
from agentlib.core.names import readable
from agentlib.core.recipe import Measure, Problem, Recipe
from agentlib.plots.report import Highlight, Picture, Prose, Report, Table, made_with


def write_report(
    path: Path,
    recipe: Recipe,
    problem: Problem,
    metrics: dict[str, float],
    measures: list[Measure],
    facts: dict[str, Any],
    pictures: list[Path],
) -> None:
    """Writes one HTML page that needs nothing beside itself.

    `metrics` are the last numbers of the training, `measures` the final result, `pictures` PNG files.
    """
    references = ["" if measure.reference is None else readable(measure.reference) for measure in measures]
    reached = tuple((m.name, readable(m.value), text, m.whose) for m, text in zip(measures, references, strict=True))
    numbers = tuple((name, readable(value)) for name, value in sorted(metrics.items()))
    settings = tuple((name, _text(value)) for name, value in config_to_json(problem.config).items())
    sections: list[Any] = []
    if reached:
        sections.append(Table("Result", ("", "reached", "reference", "whose"), reached))
    sections += [Picture(p.stem.replace("_", " ").capitalize(), p.read_bytes(), p.stem) for p in pictures]
    if numbers:
        sections.append(Table("Last numbers of the training", ("", "value"), numbers))
    if facts:
        sections.append(Prose("Facts", tuple(f"{name}: {_text(value)}" for name, value in facts.items())))
    sections += [Table("Settings", ("", "value"), settings), made_with()]
    cards = [
        Highlight(name.removeprefix("test/"), value, f"{reference}: {whose}" if reference else "")
        for name, value, reference, whose in reached[:3]
    ]
    returns = {"eval/mean_reward": "evaluation", "rollout/ep_rew_mean": "last training episodes"}
    cards += [Highlight("mean return", readable(metrics[n]), label) for n, label in returns.items() if n in metrics]
    subject = problem.key or "data of the caller's"
    page = Report(
        f"{recipe.name} on {subject}", f"{recipe.summary}. Seed {problem.seed}.", tuple(cards), tuple(sections)
    )
    path.write_text(page.html(), encoding="utf-8")


def _text(value: Any) -> str:
    if isinstance(value, dict) and "schedule" in value:
        arguments = ", ".join(f"{name}={item}" for name, item in value.items() if name != "schedule")
        return f"{value['schedule']}({arguments})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
