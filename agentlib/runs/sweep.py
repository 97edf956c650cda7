"""`agentlib.sweep`: a search for hyperparameters by Optuna, over runs in folders of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

from agentlib.core.config import config_from_json
from agentlib.core.numbers import whole
from agentlib.core.recipe import Recipe
from agentlib.envs.making import is_made
from agentlib.runs.options import ORIGINS, RunOptions, record_of
from agentlib.runs.plan import plan
from agentlib.runs.searching import import_optuna, space_for
from agentlib.runs.sweep_report import write_sweep
from agentlib.runs.sweep_result import Sweep, best_of
from agentlib.runs.sweep_work import Search, SweepFolder, Work
from agentlib.runs.trackers import each_of, names_in

NO_OPTIONS = ("out", "progress", "eval_every", "video_every", "agent", "config")
"""Options of a run that a sweep does not take."""


def sweep(
    what: str | Recipe | Any = None,
    *,
    trials: int | None = None,
    seeds: int = 1,
    space: Mapping[str, Any] | str | Path | None = None,
    jobs: int = 1,
    sampler: Literal["tpe", "random"] = "tpe",
    pruner: Literal["median", "halving", "none"] = "median",
    evaluations: int = 10,
    compare_seeds: int = 5,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Sweep:
    """Searches hyperparameters, and compares the best ones to the usual ones on fresh seeds.

    Args:
        what: as `train` takes it; its config, or the preset for the environment, is what the search begins with.
        trials: how many settings to try, 50 by default; with `resume` the sweep can be made longer.
        seeds: runs of each trial, whose value is the mean of their scores; trial n has the seeds from
            `seed + n * seeds` on.
        space: None for that of the learner's family, "zoo" for the RL Baselines3 Zoo's, a JSON file, or a dictionary;
            `agentlib.runs.spaces` has examples.
        jobs: processes; each does one trial at a time.
        sampler: "tpe" chooses settings by the results so far, after ten trials at random (Bergstra et al. 2011).
        pruner: what ends bad trials early: the median of the others at the same evaluation, or successive halving,
            which lets a third go on (Jamieson and Talwalkar 2016).
        evaluations: in each run. Its last one is its score; or its best one, where the learner goes back to that.
        compare_seeds: runs of the best settings, and of those that the search began with, on seeds that no trial had.
        out, resume: the folder of a new sweep; or of one to go on with, which repeats no trial that has ended.
        progress: write a line for each trial to the standard error stream.
        settings: options of `train`, such as `env`, `data`, `steps` and `seed`; and hyperparameters, which stay as
            they are given. With `resume` only those that were given as objects.

    Raises:
        ImportError: Optuna is absent; the message names the extra.
        ValueError: something does not fit, all trials fail, or several jobs are asked for where an option is an object
            that another process could not find by a name.
    """
    import_optuna()
    if (out is None) == (resume is None):
        raise ValueError("a sweep keeps its trials in a folder: give out=..., or resume=... to go on with one")
    folder, jobs = SweepFolder(str(out or resume)), whole("jobs", jobs, 1)
    search = {"seeds": seeds, "sampler": sampler, "pruner": pruner, "compare_seeds": compare_seeds}
    if resume is None:
        search["trials"] = 50 if trials is None else trials
        _begin(folder, what, search, evaluations, space, jobs, settings)
    else:
        _check_changes({**search, "space": space, "evaluations": evaluations}, settings)
        if trials is not None:
            folder.lengthen(whole("trials", trials, 1))
    objects = {name: settings[name] for name in ORIGINS if settings.get(name) is not None}
    work = Work(folder, what, objects, progress)
    with _workers(work, what, jobs - 1):
        work.run()
    return _result(work)


def _check_changes(search: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ValueError where a sweep that goes on was given other settings than objects, which it cannot keep."""
    usual: Any = sweep.__kwdefaults__
    other = sorted(set(settings) - set(ORIGINS)) + [name for name in search if search[name] != usual[name]]
    if other:
        raise ValueError(f"a sweep goes on with its own settings: {', '.join(other)} cannot be changed")


def _result(work: Work) -> Sweep:
    """What was found, which is written into the folder, too."""
    trials, search = work.trials(), work.search
    best = best_of(trials, search.lower_is_better)
    found = Sweep(
        work.folder.path,
        search.objective,
        search.lower_is_better,
        trials,
        best,
        work.importance(),
        work.scores(best.number),
        work.scores(None),
    )
    write_sweep(found, work.recipe.name, work.config, search.space)
    return found


def _begin(
    folder: SweepFolder,
    what: Any,
    search: dict[str, Any],
    evaluations: int,
    space: Any,
    jobs: int,
    settings: dict[str, Any],
) -> None:
    """Makes the folder of a new sweep, once everything is known to fit."""
    for name, least in (("trials", 1), ("seeds", 1), ("compare_seeds", 0)):
        search[name] = whole(name, search[name], least)
    options = {field.name for field in fields(RunOptions)}
    given = {name: value for name, value in settings.items() if name in options and value is not None}
    pinned = {name: value for name, value in settings.items() if name not in options}
    for name in NO_OPTIONS:
        if name in given:
            raise ValueError(f"{name} is no option of a sweep")
    if is_made(given.get("env")):
        raise ValueError("each trial needs an environment of its own: give an id, or a function that makes one")
    if not isinstance(given.get("backbone", "auto"), str | Path | Mapping):
        raise ValueError("each trial needs a backbone of its own: give a name, a file or a spec")
    folder.check(is_new=True)
    asked = RunOptions(**{"threads": "auto", **given})
    if len(names_in(asked.log)) < len(each_of(asked.log)):
        raise ValueError("each run needs a tracker of its own: give log= as names, such as csv")
    planned = plan(what, asked, pinned)
    asked = planned.fill(asked)
    searched = space_for(planned.recipe, space, planned.config, pinned, asked.backbone)
    job = planned.recipe.job(asked)  # one to look at
    job.source.close()
    if not job.judge.evaluates:
        raise ValueError(
            f"{planned.recipe.name} is not evaluated while it trains: there is nothing to compare trials by"
        )
    asked = replace(asked, steps=job.length.steps)
    search |= {
        "space": searched,
        "eval_every": max(1, job.length.steps // whole("evaluations", evaluations, 1)),
        "objective": job.judge.objective,
        "lower_is_better": job.judge.lower_is_better,
        "takes_best": job.judge.patience is not None,
    }
    record = record_of(planned.recipe, asked)
    if jobs > 1:
        _require_names(record["objects"] + ["what"] * (record["has_own_recipe"] and not isinstance(what, str)))
    folder.begin(record, asdict(config_from_json(Search, search)))


def _require_names(objects: list[str]) -> None:
    if objects:
        raise ValueError(
            f"several jobs find all they need by name, and {objects[0]} was given as an object: take jobs=1"
        )


@contextmanager
def _workers(work: Work, what: Any, count: int) -> Iterator[None]:
    """Inside, other processes work in the folder, too."""
    if count:
        _require_names(work.unnamed)
    name = [what] if isinstance(what, str) else []
    line = [sys.executable, "-m", "agentlib", "sweep", *name, "--resume", str(work.folder.path), "--worker"]
    line += ["--quiet"] * (not work.progress)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    others = [subprocess.Popen(line, env=environment) for _ in range(count)]
    try:
        yield
    except BaseException:
        for other in others:
            other.terminate()  # it saves its run before it ends
        raise
    finally:
        codes = [other.wait() for other in others]
    if failed := [code for code in codes if code]:
        ended = f"{len(failed)} of {len(codes)} other processes ended with an error (exit code {failed[0]})"
        warnings.warn(f"{ended}: this one did their work", stacklevel=3)
