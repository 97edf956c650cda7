"""The page of one run: what was trained, what it reached, its pictures and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentlib.backbones.files import replacing
from agentlib.core.config import config_to_json
from agentlib.core.names import readable
from agentlib.core.recipe import Problem, Recipe
from agentlib.plots.report import Highlight, Picture, Prose, Report, Table, made_with
from agentlib.runs.result import Result


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
    if numbers:
        sections.append(Table("Last metrics of the training", ("", "value"), numbers))
    if facts:
        sections.append(Prose("Facts", tuple(f"{name}: {_text(value)}" for name, value in facts.items())))
    sections += [Table("Settings", ("", "value"), settings), made_with()]
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


def _text(value: Any) -> str:
    if isinstance(value, dict) and "schedule" in value:
        arguments = ", ".join(f"{name}={item}" for name, item in value.items() if name != "schedule")
        return f"{value['schedule']}({arguments})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
