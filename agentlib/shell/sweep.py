"""`agentlib sweep`: a search for hyperparameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import agentlib
from agentlib.runs.options import RunOptions
from agentlib.runs.sweep_work import SweepFolder, Work
from agentlib.shell.flags import Options, count, flag, keywords, whole_numbers
from agentlib.shell.options import (
    choose,
    flag_field,
    folder_for,
    parsed,
    print_settings,
    run_flags,
    threads_of,
    without_learner,
)
from agentlib.shell.stopping import saving_on_sigterm
from agentlib.shell.train import is_taken

SUMMARY = (
    "Search hyperparameters, and compare the best ones to the usual ones on fresh seeds (`agentlib sweep --resume DIR` "
    "goes on). Hyperparameters that are given stay as they are."
)
NAMES = [
    field.name
    for field in dataclasses.fields(RunOptions)
    if field.name not in ("out", "progress", "eval_every", "video_every", "agent")
]
SPACE = (
    "The space to search: zoo for the RL Baselines3 Zoo's, or a JSON file; the default is that of the learner's family."
)
OUT = "Folder of the sweep; the default is runs/sweep-WHAT-ENV-1, or the next number that is free."
FRESH = "Runs of the best settings, and of those that the search began with, on seeds that no trial had."
FIELDS = [
    flag_field("trials", int, 50, "Number of settings to try.", "N"),
    flag_field("jobs", int, 1, "Number of processes; each does one trial at a time.", "N"),
    flag_field("space", str | None, None, SPACE, "zoo|FILE"),
    flag_field("seeds", int, 1, "Runs of each trial; its value is the mean of their scores.", "N"),
    flag_field("sampler", Literal["tpe", "random"], "tpe", "Choose settings by the results so far, or at random."),
    flag_field("pruner", Literal["median", "halving", "none"], "median", "End bad trials early, and how."),
    flag_field("evaluations", int, 10, "Number of evaluations in each run.", "N"),
    flag_field("compare_seeds", int, 5, FRESH, "N"),
    flag_field("verbose", bool, False, "Print all hyperparameters, by where they come from."),
    flag_field("out", Path | None, None, OUT, "DIR"),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Options):
    """Go on with a sweep that was stopped, or make it longer; no trial that has ended is repeated."""

    resume: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The sweep's folder."""
    trials: Annotated[int | None, flag("N")] = None
    """Another number of trials."""
    jobs: Annotated[int, flag("N")] = 1
    """Number of processes; each does one trial at a time."""
    worker: tyro.conf.FlagCreatePairsOff[bool] = False
    """Work on the trials, and leave the report to another process."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write no line for each trial."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    what = None if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments if what is None else arguments[1:]
    if "--resume" in {argument.split("=")[0] for argument in rest}:
        if what is not None:
            choose(what, [])  # a module of one's own is found in this folder
        return _resume(what, tyro.cli(Resume, prog="agentlib sweep", args=rest, registry=whole_numbers()))
    defaults: dict[str, Any] = {"threads": "auto"}
    if what is None:
        without_learner("sweep", SUMMARY, _flags(NAMES, defaults), rest)
    choice = choose(what, rest)
    fields = _flags([name for name in NAMES if is_taken(name, choice.recipe)], defaults)
    options: Any = parsed(choice, "sweep", what, SUMMARY, fields, rest)
    given = {name: getattr(options, name) for name in NAMES if hasattr(options, name)}
    given |= {"env_kwargs": keywords(given.get("env_kwargs", ())), "threads": threads_of(options.threads)}
    words = {word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_") for word in rest}
    config = options.hyperparameter
    pinned = {
        name: value for name, value in vars(config).items() if name in words or value != getattr(choice.base, name)
    }
    subject = next((str(given[name]) for name in ("env", "data", "demos") if given.get(name)), "")
    with folder_for(f"sweep-{choice.recipe.name}-{subject}", options.out) as folder, saving_on_sigterm():
        print_settings(
            f"{choice.recipe.name} on {subject}: {count(options.trials, 'trial')}", config, choice, options.verbose
        )
        names = ("trials", "jobs", "space", "seeds", "sampler", "pruner", "evaluations", "compare_seeds")
        search = {name: getattr(options, name) for name in names}
        found = _stopped(folder, lambda: agentlib.sweep(what, out=folder, **search, **given, **pinned))
    return _print(found)


def _flags(names: list[str], defaults: dict[str, Any]) -> list[Any]:
    return [one for one in run_flags(names, **defaults) if one[0] != "zoo"] + FIELDS


def _resume(what: str | None, options: Resume) -> int:
    with saving_on_sigterm():
        if options.worker:
            Work(SweepFolder(options.resume), what, {}, progress=not options.quiet).run()
            return 0
        again: Any = {name: getattr(options, name) for name in ("resume", "trials", "jobs")}
        again["progress"] = not options.quiet
        return _print(_stopped(options.resume, lambda: agentlib.sweep(what, **again)))


def _stopped(folder: Path, search: Any) -> agentlib.Sweep:
    """The result of a search; how to go on with it, where it is stopped."""
    try:
        return search()  # type: ignore[no-any-return]
    except KeyboardInterrupt as stop:
        stop.add_note(f"to go on: agentlib sweep --resume {folder}")
        raise


def _print(found: agentlib.Sweep) -> int:
    print(f"\n{found}\n\nReport: {found.folder / 'report.html'}")
    return 0
