"""The results and the page of a sweep: its best settings beside the usual ones, its history, and its trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from agentlib.backbones.files import replacing
from agentlib.core.config import config_to_json
from agentlib.core.names import readable
from agentlib.plots import charts, pictures, sweeps
from agentlib.plots.report import Highlight, Picture, Report, Table, made_with, provenance, write_json
from agentlib.runs.searching import config_with
from agentlib.runs.sweep_result import Sweep, shown_setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_sweep(found: Sweep, recipe_name: str, base: Any, space: dict[str, Any]) -> None:
    """Writes `results.json`, the pictures, and `report.html` into the sweep's folder.

    Args:
        found: the sweep.
        recipe_name: of the learner.
        base: the config that the search began with.
        space: that was searched.
    """
    best, difference = found.best, found.difference
    figures = _figures(found, space)
    for name, figure in figures.items():
        pictures.save(figure, found.folder / f"{name}.png")
    content = {
        "objective": found.objective,
        "lower_is_better": found.lower_is_better,
        "best": best,
        "config": config_to_json(config_with(base, best.settings)),
        "importance": found.importance,
        "best_scores": found.best_scores,
        "default_scores": found.default_scores,
        "difference": difference,
        "trials": found.trials,
    }
    write_json(found.folder / "results.json", content | provenance())
    rows = [(name, shown_setting(value), shown_setting(getattr(base, name))) for name, value in best.settings.items()]
    sections: list[Any] = [Table("Best settings", ("", f"trial {best.number}", "default"), tuple(rows), _how(best))]
    if found.best_scores:
        seeds = range(len(found.best_scores))
        pairs = zip(seeds, found.best_scores, found.default_scores, strict=True)
        scores = tuple((f"fresh seed {n + 1}", *map(_score, both)) for n, *both in pairs)
        note = f"{found.comparison[:1].upper()}{found.comparison[1:]}. The 95% interval is that of the paired mean."
        sections.append(Table("On seeds that no trial had", ("", "best", "default"), scores, note))
    for name, figure in figures.items():
        title = name.replace("_", " ")
        sections.append(Picture(title, pictures.png(figure), title))
    trials = tuple((str(t.number), t.state.lower(), *_cells(t, list(space))) for t in found.trials)
    sections += [Table("Trials", ("", "", found.objective, *space), trials), made_with()]
    cards = (
        Highlight(found.objective, readable(best.value or 0.0), f"trial {best.number}, the best"),
        Highlight("trials", str(len(found.trials)), _counts(found)),
        *([] if difference is None else [Highlight("best minus default", str(difference), "on fresh seeds")]),
    )
    better = "lower" if found.lower_is_better else "higher"
    summary = f"{len(found.trials)} settings were tried; {found.objective} is better where it is {better}."
    page = Report(f"Sweep of {recipe_name}", summary, cards, tuple(sections))
    with replacing(found.folder / "report.html") as temporary:
        temporary.write_text(page.html(), encoding="utf-8")


def _figures(found: Sweep, space: dict[str, Any]) -> dict[str, Figure]:
    """The pictures by name; none where matplotlib is absent: a long search shall not end without its results."""
    done = [trial for trial in found.trials if trial.state == "COMPLETE"]
    values = {trial.number: trial.value or 0.0 for trial in done}
    pruned = {
        trial.number: trial.value for trial in found.trials if trial.state == "PRUNED" and trial.value is not None
    }
    log = [name for name, spec in space.items() if spec.get("log") and not spec.get("one_minus")]
    settings = [{name: _plain(value) for name, value in trial.settings.items()} for trial in done]
    try:
        figures = {"history": sweeps.search_history(values, pruned, found.objective, found.lower_is_better)}
        figures["parallel_coordinates"] = sweeps.parallel_coordinates(
            settings, [*values.values()], found.objective, log
        )
        if found.importance:
            figures["importance"] = charts.bars(found.importance, "Importance of hyperparameters", "Share (PED-ANOVA)")
        return figures
    except ImportError:
        return {}


def _score(value: float) -> str:
    return readable(value) if math.isfinite(value) else "diverged"


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else shown_setting(value)


def _cells(trial: Any, names: list[str]) -> list[str]:
    value = trial.error if trial.value is None else readable(trial.value)
    return [value, *(shown_setting(trial.settings[name]) if trial.settings else "" for name in names)]


def _counts(found: Sweep) -> str:
    states = [trial.state for trial in found.trials]
    return f"{states.count('COMPLETE')} completed, {states.count('PRUNED')} pruned, {states.count('FAIL')} failed"


def _how(best: Any) -> str:
    """How the best trial is trained again."""
    given = ", ".join(f"{name}={value!r}" for name, value in best.settings.items())
    return f"agentlib.train(..., seed={best.seeds[0]}, {given}) trains it again, with the other options of the sweep."
