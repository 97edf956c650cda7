"""`agentlib list`: the learners, presets, backbones, environments and data sets that there are."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import tyro

from agentlib.catalog import LEARNERS, preset_key
from agentlib.core.names import close_matches, readable
from agentlib.shell.flags import WIDTH, Options, flag
from agentlib.shell.stopping import UsageError

KINDS = ("learners", "presets", "backbones", "envs", "data")
MEASURED = Path(__file__).parents[2] / "docs" / "results"
"""The measured results, in a checkout of the project; `benchmarks/evidence/presets.py` measures those of presets."""
LENGTHS = Path(__file__).with_name("preset_lengths.json")
"""The steps of each preset; `python tests/runs/test_presets.py` writes it, as to ask the learners takes seconds."""


@dataclass(frozen=True, kw_only=True)
class List(Options):
    """Name the learners, presets, backbones, environments and data sets that there are."""

    what: Annotated[
        tyro.conf.Positional[Literal["learners", "presets", "backbones", "envs", "data"] | None],
        flag("[learners|presets|backbones|envs|data]"),
    ] = None
    """The kind to list; all of them without it."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    for word in arguments:
        if not word.startswith("-") and word not in KINDS:
            raise UsageError(f"there is no kind {word!r} to list{close_matches(word, KINDS)}")
    options = tyro.cli(List, prog="agentlib list", args=arguments)
    for title, rows in zip(KINDS, (_learners, _presets, _backbones, _environments, _data), strict=True):
        if options.what in (None, title):
            _print_table(title, rows())
    return 0


def _learners() -> dict[str, str]:
    return {name: summary for name, (_, summary) in LEARNERS.items()}


def _presets() -> dict[str, str]:
    """Learner, and environment or data set, with the usual length, and the return and seconds that were measured."""
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(MEASURED.glob("preset_*.json"))]
    rows = {}
    for name, lengths in json.loads(LENGTHS.read_text(encoding="utf-8")).items():
        for key, steps in lengths.items():
            length = f"{steps:,} steps" if steps else ""
            rows[f"{name} {key}"] = length
            for found in measured:
                about, seeds = found["about"], found["seeds"].values()
                if about["learner"] == name and preset_key(about["env"]) == key and about["steps"] == steps:
                    rows.pop(f"{name} {key}", None)
                    place = " ".join([about["env"], *(f"{k}={v}" for k, v in about["env_kwargs"].items())])
                    reached, seconds = (median(seed[number] for seed in seeds) for number in ("best", "seconds"))
                    rows[f"{name} {place}"] = f"{length}, mean return {readable(reached)} in {seconds:.0f} s"
    rows[""] = (
        "agentlib train LEARNER --env ID, or --data NAME, takes the preset for it. Returns are of the best of 20 "
        "evaluations of a run, played again; medians of 5 seeds, on one core, evaluations included"
    )
    return rows


def _backbones() -> dict[str, str]:
    from agentlib.backbones.choice import NAMED_BACKBONES

    def text(entry: Any) -> str:
        example = f"{entry.parameters():,} parameters on {entry.example.dtype} {entry.example.shape}"
        return f"{entry.summary}. For {entry.takes}; {example}; {entry.reference}"

    return {name: text(entry) for name, entry in NAMED_BACKBONES.items()}


def _environments() -> dict[str, str]:
    """The newest version of each registered environment, by what it comes from."""
    import gymnasium

    newest = {env_id.rpartition("-v")[0]: env_id for env_id in gymnasium.registry}
    groups: dict[str, list[str]] = {"agentlib": []}
    for env_id in newest.values():
        entry = gymnasium.registry[env_id].entry_point
        if isinstance(entry, str):
            group = entry.removeprefix("gymnasium.envs.").split(":")[0].split(".")[0]
            groups.setdefault(group, []).append(env_id)
    known = {group: ", ".join(sorted(ids)) for group, ids in groups.items()}
    return known | {
        "atari": "ALE/Pong-v5 and others, with pip install 'agentlib-rl[atari]'",
        "minigrid": "MiniGrid-Empty-5x5-v0 and others, with pip install 'agentlib-rl[minigrid]'",
    }


def _data() -> dict[str, str]:
    from agentlib.data import DATASETS, DOMAINS, PARALLEL_TEXTS, SCENES, TASKS, TEXTS

    scenes = {f"{name}, as scenes": make for name, make in SCENES.items()}
    made = {**DATASETS, **DOMAINS, **TASKS, **TEXTS, **PARALLEL_TEXTS, **scenes}
    return {name: (make.__doc__ or "").splitlines()[0] for name, make in made.items()}


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 2
    print(title)
    for name, text in rows.items():
        indent = " " * (width + 2)
        print(textwrap.fill(f"  {name:<{width}}{text}", WIDTH, subsequent_indent=indent, break_on_hyphens=False))
