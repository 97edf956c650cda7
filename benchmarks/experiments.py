"""What an experiment of `benchmarks/evidence` is, and how its results are kept and judged."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentlib.metrics import bootstrap_interval, interquartile_mean, t_interval
from agentlib.plots.report import provenance

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / "benchmarks" / "evidence"
RESULTS = ROOT / "docs" / "results"
STATISTICS: dict[str, Callable[..., Any]] = {"median": np.median, "mean": np.mean, "iqm": interquartile_mean}


@dataclass(frozen=True)
class Claim:
    """What is claimed of one number."""

    number: str
    """Its name in what `measure` (or `summarize`) returns."""
    what: str
    """What it is, for the page."""
    at_least: float | None = None
    at_most: float | None = None
    statistic: Literal["median", "mean", "iqm"] = "median"
    """Over the seeds."""
    of: Literal["statistic", "interval", "part"] = "statistic"
    """What has to lie within the bounds: the statistic, its whole 95% interval, or a part of that at least."""
    reference: str = ""
    """What others reach, and who."""


@dataclass(frozen=True)
class Experiment:
    """One thing that is measured on several seeds."""

    name: str
    family: str
    """The page's heading."""
    data: str
    """On what, and how long."""
    measure: Callable[[int], Mapping[str, float]]
    """One seed: trains, measures, and returns numbers by name."""
    claims: tuple[Claim, ...]
    seeds: int = 5
    """How many are planned."""
    files: tuple[str, ...] = ()
    """Data of papers that it needs, see `benchmarks/paper_data.py`."""
    first_seed: int = 0
    """Others follow it; 200 where lower ones have been looked at."""
    note: str = ""
    """A sentence under the table."""
    summarize: Callable[[list[dict[str, float]]], Mapping[str, Any]] | None = None
    """Numbers of all seeds together: `{"slope": {"value": ..., "low": ..., "high": ...}}`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Kept with the results, for those who read the file."""


def experiments() -> dict[str, Experiment]:
    """All experiments by name, in the order of the files' names."""
    files = sorted(path.stem for path in EVIDENCE.glob("*.py") if path.stem not in ("__init__", "references"))
    modules = [importlib.import_module(f"benchmarks.evidence.{name}") for name in files]
    found = [experiment for module in modules for experiment in module.EXPERIMENTS]
    names = [experiment.name for experiment in found]
    assert len(set(names)) == len(names), f"two experiments have one name: {sorted(names)}"
    return dict(zip(names, found, strict=True))


def known(numbers: Mapping[tuple[str, str], tuple[float, str]], data: str, measure: str) -> str:
    """A number of `benchmarks/evidence/references.py` and whose it is, for a claim's `reference`."""
    value, whose = numbers[data, measure]
    return f"{value:g}, {whose}"


def load(name: str) -> dict[str, Any]:
    """What was measured of an experiment so far: "seeds", and by what they were "measured"."""
    path = RESULTS / f"{name}.json"
    found = dict(json.loads(path.read_text())) if path.is_file() else {"seeds": {}, "measured": []}
    if "measured" not in found:  # a file from before these were kept
        found["measured"] = [{"seeds": list(found["seeds"]), "versions": found["versions"]}]
    return found


def origin() -> dict[str, Any]:
    """By what is measured: commit, versions and machine."""
    made = provenance()
    return {"commit": commit(), "versions": made["versions"], "machine": made["machine"]}


def commit() -> str | None:
    """The commit that is measured, with a + where its code was changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "agentlib", "benchmarks"], check=True, capture_output=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed else "")


def noted(measured: list[dict[str, Any]], seed: str, of: Mapping[str, Any], seconds: float) -> None:
    """Adds a seed that was measured now, in so many seconds of the processor, to those of the same origin."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    last = measured[-1] if measured else {}
    if any(last.get(name) != value for name, value in of.items()):
        last = {"seeds": [], "first": now, "seconds": 0.0, **of}
        measured.append(last)
    last["seeds"].append(seed)
    last |= {"last": now, "seconds": round(last["seconds"] + seconds, 1)}


def keep(
    experiment: Experiment, seeds: Mapping[str, Mapping[str, float]], measured: Sequence[Mapping[str, Any]]
) -> None:
    """Writes what was measured and by what, and what follows from it."""
    RESULTS.mkdir(exist_ok=True)
    rows = [dict(seeds[seed]) for seed in sorted(seeds, key=int)]
    groups = [{**group, "seeds": [seed for seed in group["seeds"] if seed in seeds]} for group in measured]
    result = {
        "name": experiment.name,
        "command": f"python benchmarks/results.py {experiment.name} --seeds {len(rows)}",
        "seeds": {seed: seeds[seed] for seed in sorted(seeds, key=int)},
        "claims": [judged(claim, rows, experiment) for claim in experiment.claims],
        **({"about": dict(experiment.about)} if experiment.about else {}),
        "measured": [group for group in groups if group["seeds"]],
    }
    (RESULTS / f"{experiment.name}.json").write_text(json.dumps(result, indent=1) + "\n")


def judged(claim: Claim, rows: Sequence[Mapping[str, float]], experiment: Experiment) -> dict[str, Any]:
    """A claim with its number, interval and verdict."""
    summary = dict(experiment.summarize([dict(row) for row in rows])) if experiment.summarize else {}
    if claim.number in summary:
        found = {"value": summary[claim.number]["value"], "each": []}
        low, high = summary[claim.number]["low"], summary[claim.number]["high"]
    else:
        each = np.array([row[claim.number] for row in rows], dtype=np.float64)
        found = {"value": float(STATISTICS[claim.statistic](each)), "each": each.tolist()}
        is_mean = claim.statistic == "mean"
        low, high = t_interval(each) if is_mean else bootstrap_interval(each, STATISTICS[claim.statistic])
    found |= {"number": claim.number, "low": float(low), "high": float(high)}
    value = found["value"]
    lowest, highest = {"statistic": (value, value), "interval": (low, high), "part": (high, low)}[claim.of]
    met = None
    if claim.at_least is not None or claim.at_most is not None:
        met = bool(
            (claim.at_least is None or lowest >= claim.at_least) and (claim.at_most is None or highest <= claim.at_most)
        )
    return found | {"met": met}
