"""What runs have left in their folders: records, curves and results, those of one kind together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentlib.backbones.files import json_from
from agentlib.core.names import one_line
from agentlib.runs.folder import RunFolder

SHARED = (
    *("what", "env", "env_kwargs", "max_steps", "data", "demos", "expert", "steps", "n_envs", "actors", "backbone"),
    *("precision", "from_agent", "config"),
)
"""Fields of a record that runs of one kind have in common; such runs differ in their seed only."""
LONGEST = 60
"""Characters of settings in a name."""


class Run(NamedTuple):
    """One run."""

    folder: Path
    record: dict[str, Any]
    results: dict[str, Any]
    """The content of results.json; empty of a run that has not ended."""

    @property
    def name(self) -> str:
        """Such as "dqn on CartPole-v1"."""
        subject = next((str(self.record[name]) for name in ("env", "data", "demos") if self.record.get(name)), "")
        return f"{self.record.get('what')} on {subject}" if subject else str(self.record.get("what"))

    @property
    def settings(self) -> dict[str, Any]:
        """What runs of one kind share, and the config's fields among it."""
        return {name: self.record.get(name) for name in SHARED[:-1]} | dict(self.record.get("config", {}))

    @property
    def numbers(self) -> dict[str, float]:
        """The measures of the result, and the mean return of the last evaluation or episodes."""
        found = dict(self.results.get("measures", {}))
        last = self.results.get("metrics", {})
        found |= {name: last[name] for name in ("eval/mean_reward", "rollout/ep_rew_mean") if name in last}
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def run_in(folder: Path) -> Run:
    """What a folder holds.

    Raises:
        FileNotFoundError: no run.
        ValueError: a file is damaged, or of something else.
    """
    place = RunFolder(folder)
    record, results = place.record(), {}
    if not isinstance(record.get("what"), str) or not isinstance(record.get("config"), dict):
        raise ValueError(f"{place.config_file} is of no run: it has no learner with its settings")
    if place.results_file.is_file():
        try:
            results = dict(json_from(place.results_file.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place.results_file} is damaged: {one_line(error)}") from None
    return Run(folder, record, results)


def by_kind(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed only, under a name that no other kind has."""
    kinds: dict[str, list[Run]] = {}
    for one in runs:
        shared = {name: one.record.get(name) for name in SHARED}
        kinds.setdefault(json.dumps(shared, sort_keys=True), []).append(one)
    firsts = [same[0] for same in kinds.values()]
    names = [_distinct(one, firsts) for one in firsts]
    unique = [  # folders in different places may have the same name
        name if names.count(name) == 1 else f"{one.name}, {one.folder}" for name, one in zip(names, firsts, strict=True)
    ]
    return dict(zip(unique, kinds.values(), strict=True))


def _distinct(run: Run, others: Sequence[Run]) -> str:
    """The name of a run, with what sets it apart from others of the same name: a setting or two, or its folder."""
    alike = [other.settings for other in others if other.name == run.name]
    differing = [name for name in run.settings if any(one.get(name) != run.settings[name] for one in alike)]
    if len(alike) == 1:
        return run.name
    text = ", ".join(f"{name}={run.settings[name]}" for name in differing)
    return (
        f"{run.name}, {text}" if len(differing) in (1, 2) and len(text) < LONGEST else f"{run.name}, {run.folder.name}"
    )


def scalars_of(folder: Path) -> dict[str, dict[int, float]]:
    """The finite values of each metric in the TensorBoard events of a run, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    found = {name: {e.step: e.value for e in events.Scalars(name) if math.isfinite(e.value)} for name in names}
    return {name: values for name, values in found.items() if values}
