"""docs/results.md, from the files in docs/results alone: the rows that matter first, then each experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentlib.core.names import readable
from benchmarks.experiments import RESULTS, Claim, Experiment, load

FIRST = (
    ("ppo_cartpole", "difference"),
    ("dqn_cartpole", "difference"),
    ("her_reach", "with"),
    ("ppo_masks_and_memory", "both"),
    ("recurrent_dqn_lstm", "best"),
    ("imitation_chain", "dagger_slope"),
    ("diffusion_policy_detour", "success"),
    ("adversarial_digits", "gap_strong"),
    ("simclr_digits", "above_random"),
    ("maml_few_shot_imitation", "difference"),
    ("prototypical_glyphs", "20_way_1_shot"),
)
"""Experiments and their numbers on the page's first screen."""

HEAD = (
    "# Results\n\n"
    "Written by `make results` from the files in `docs/results`; nothing is typed in by hand. Each file holds its "
    "seeds, commits, dates, versions and the machine. Intervals are 95% intervals over seeds: Student's for means; the "
    "percentile bootstrap for medians and interquartile means (IQM), which is too narrow where seeds are few (it "
    "covers about 75% with 3 and 90% with 5)."
)

DESIGNED = "Their seeds, settings and bounds are fixed; `python benchmarks/results.py NAME` runs one."


def page(found: Mapping[str, Experiment]) -> str:
    """The page of all experiments that were measured."""
    results = {name: load(name) for name in found if (RESULTS / f"{name}.json").is_file()}
    shown = [(found[name], results[name]) for name in results]
    first = [row(one, *named(found, results, *one)) for one in FIRST if one[0] in results]
    unmet = [
        row((experiment.name, claim.number), experiment, claim, number)
        for experiment, result in shown
        for claim, number in pairs(experiment, result)
        if number["met"] is False
    ]
    head = "| row | measured | on | reference | ours [95%] | asked |\n|---|---|---|---|---|---|\n"
    parts = [HEAD, "## The rows that matter most", head + "\n".join(first), "## Not met", head + "\n".join(unmet)]
    for family in dict.fromkeys(experiment.family for experiment, _ in shown):
        parts.append(f"## {family}")
        parts += [section(*one) for one in shown if one[0].family == family]
    ready = [f"- `{name}`: {planned(experiment)}" for name, experiment in found.items() if name not in results]
    if ready:
        parts += ["## Designed, and not run", DESIGNED, "\n".join(ready)]
    return "\n\n".join(parts) + "\n"


def pairs(experiment: Experiment, result: Mapping[str, Any]) -> list[tuple[Claim, Mapping[str, Any]]]:
    """The claims that were measured, each with its number."""
    numbers = {number["number"]: number for number in result["claims"]}
    return [(claim, numbers[claim.number]) for claim in experiment.claims if claim.number in numbers]


def named(
    found: Mapping[str, Experiment], results: Mapping[str, Any], name: str, wanted: str
) -> tuple[Experiment, Claim, Mapping[str, Any]]:
    [(claim, number)] = [one for one in pairs(found[name], results[name]) if one[0].number == wanted]
    return found[name], claim, number


def row(one: tuple[str, str], experiment: Experiment, claim: Claim, number: Mapping[str, Any]) -> str:
    """A line of the first tables."""
    name = f"[`{one[0]}`](#{one[0]})"
    count = len(number["each"])
    part = f"; {count} of {experiment.seeds} seeds" if 0 < count < experiment.seeds else ""
    return line(name, claim.what, experiment.data + part, claim.reference, value(number), asked(claim, number))


def section(experiment: Experiment, result: Mapping[str, Any]) -> str:
    """An experiment: its data, command and time, its claims, and its note."""
    count, seconds = len(result["seeds"]), seconds_of_a_seed(result)
    seeds = f"{count} of {experiment.seeds} planned seeds" if count < experiment.seeds else f"{count} seeds"
    time = f", {seconds / 60:.1f} minutes of one core each" if seconds else ""
    lines = [f"### {experiment.name}", "", f"{experiment.data}. {seeds}{time}: `{result['command']}`.", ""]
    lines += ["| measured | reference | ours [95%] | of the seeds | asked |", "|---|---|---|---|---|"]
    for claim, number in pairs(experiment, result):
        lines.append(line(claim.what, claim.reference, value(number), each(claim, number), asked(claim, number)))
    return "\n".join([*lines, *(["", experiment.note] if experiment.note else [])])


def planned(experiment: Experiment) -> str:
    """An experiment of which no seed was run, in a line."""
    first = experiment.first_seed
    return f"{experiment.data}. Seeds {first} to {first + experiment.seeds - 1}. {experiment.note}".rstrip()


def seconds_of_a_seed(result: Mapping[str, Any]) -> float:
    """Of the processor, over the seeds whose time was kept; 0 if none was."""
    timed: Sequence[Mapping[str, Any]] = [group for group in result["measured"] if group.get("seconds")]
    return float(sum(group["seconds"] for group in timed)) / max(1, sum(len(group["seeds"]) for group in timed))


def value(number: Mapping[str, Any]) -> str:
    interval = "" if np.isnan(number["low"]) else f" [{readable(number['low'])}, {readable(number['high'])}]"
    return readable(number["value"]) + interval


def each(claim: Claim, number: Mapping[str, Any]) -> str:
    values = ", ".join(readable(one) for one in number["each"])
    return f"{claim.statistic} of {values}" if len(number["each"]) > 1 else values or "all"


def asked(claim: Claim, number: Mapping[str, Any]) -> str:
    bounds = [f"at least {claim.at_least:g}"] if claim.at_least is not None else []
    bounds += [f"at most {claim.at_most:g}"] if claim.at_most is not None else []
    whole = {"statistic": "", "interval": "interval ", "part": "a part of the interval "}[claim.of] if bounds else ""
    verdict = "" if number["met"] is None else ": met" if number["met"] else ": **not met**"
    return f"{whole}{' and '.join(bounds)}{verdict}"


def line(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
