"""One run for several seeds at once: their learners are stacked, and everything around an update is each seed's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from agentlib.agent import Agent
from agentlib.core.host import torch_threads
from agentlib.core.learner import Update
from agentlib.core.numbers import whole
from agentlib.core.recipe import Job, Recipe, gains_from_threads
from agentlib.core.schedules import Clock
from agentlib.core.source import Diverged
from agentlib.engine.stacked import Sources, Stack
from agentlib.envs.making import is_made
from agentlib.runs.callbacks import Callbacks
from agentlib.runs.folder import RunFolder
from agentlib.runs.lock import locked
from agentlib.runs.options import RunOptions, record_of
from agentlib.runs.result import Result
from agentlib.runs.trackers import require_installed
from agentlib.runs.training import Training, check_looks, updates_of

MOST_SEEDS = 1_000


def seeds_of(seeds: int | Sequence[int], seed: int | None) -> list[int]:
    """The seeds that are asked for: so many from `seed` on, 0 by default; or these.

    Raises:
        ValueError: none, or one of them twice; or both a list and `seed`.
    """
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        found = [whole("seeds", one, 0, 2**32) for one in seeds]
        if seed is not None:
            raise ValueError("give seeds as a list, or their number and the first one as seed")
    else:
        first = 0 if seed is None else whole("seed", seed, 0, 2**32)
        found = [first + number for number in range(whole("seeds", seeds, 1, MOST_SEEDS + 1))]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be a number or different seeds, not {seeds!r}")
    return found


def train_seeds(recipe: Recipe, options: RunOptions, seeds: list[int], callback: Callbacks | None) -> list[Any]:
    """Trains a learner for each seed, all of them at once; returns what `train` returns for each.

    Raises:
        ValueError: the learner, or the run, cannot be made for several seeds at once; the message says why.
    """
    _check(recipe, options)
    require_installed(options.log)
    out = None if options.out is None else Path(options.out)
    each = [replace(options, seed=seed, out=out and out / f"seed_{seed}") for seed in seeds]
    each[1:] = [replace(one, progress=False) for one in each[1:]]
    folders = [None if one.out is None else RunFolder(one.out) for one in each]
    for folder in folders:
        if folder is not None:
            folder.check(is_new=True)
    jobs = list[Job]()
    try:
        jobs.extend(recipe.job(one) for one in each)
        check_looks(each[0], jobs[0])  # the others are alike
        threads = options.threads
        if threads == "auto":
            threads = None if gains_from_threads(jobs[0].learner) else 1
        with torch_threads(threads), ExitStack() as locks:
            for folder in filter(None, folders):
                locks.enter_context(locked(folder.path))
            trainings = [
                Training(recipe, job, one, folder, callback)
                for job, one, folder in zip(jobs, each, folders, strict=True)
            ]
            for number, (training, one, folder) in enumerate(zip(trainings, each, folders, strict=True)):
                training.member = number
                if folder is not None:
                    folder.create(record_of(recipe, one, training.job.source.fingerprint()))
            return _trained(trainings)
    finally:
        for job in jobs:
            job.source.close()


def _check(recipe: Recipe, options: RunOptions) -> None:
    """Raises ValueError for a run that cannot be made for several seeds at once."""
    if not recipe.learner.can_be_stacked:
        raise ValueError(
            f"{recipe.name} cannot be trained for several seeds at once: that its stacked updates equal those of each "
            "seed alone has not been shown; train one seed after the other"
        )
    reasons = {
        "env": "it is one environment, and each seed needs its own: give an id or a factory" * is_made(options.env),
        "n_envs": "each seed has one environment: n_envs=1" * ((options.n_envs or 1) > 1),
        "backbone": "it is one network, and each seed needs its own: give a name, a file or a spec"
        * isinstance(options.backbone, nn.Module),
        "precision": "they are in float32" * (options.precision != "float32"),
        "balance": "surgery looks at the gradients of one learner"
        * (getattr(options.config, "balance", "") == "surgery"),
    }
    for name, reason in reasons.items():
        if reason:
            raise ValueError(f"{name} does not fit several seeds at once: {reason}")


def _trained(trainings: list[Training]) -> list[Agent | Result]:
    """Trains to the end, or until one run is stopped by its callback; one that stops early waits for the others."""
    first = trainings[0]
    stack = Stack([training.job.learner for training in trainings])
    sources = Sources([training.job.source for training in trainings], first.options.seed)
    at_work = list(trainings)
    try:
        with ExitStack() as works:
            for training in trainings:
                works.enter_context(training.at_work())
            if not any(training.is_ended for training in trainings):
                for clock, update in updates_of(stack, sources, first.job.length, first.options, first.compile):
                    for training in [training for training in at_work if training.is_due(clock)]:
                        if _after(training, clock, update):
                            at_work.remove(training)
                    if not at_work or any(training.is_ended for training in trainings):
                        break
            return [training.end() for training in trainings]
    except Diverged as error:  # the others are saved
        if error.member is not None:
            seed = trainings[error.member].options.seed
            error.add_note(f"seed {seed} diverged, which ended all: train without it, or resume the others")
        raise
    finally:
        stack.take_apart()
        sources.take_apart()


def _after(training: Training, clock: Clock, update: Update) -> bool:
    """What is due after an update of one seed; whether that is to stop."""
    assert training.member is not None
    try:
        return training.after(clock, _of(update, training.member))
    except Diverged as error:
        error.member = training.member
        raise


def _of(update: Update, number: int) -> Update:
    """One seed's part of an update."""
    return Update({name: value[number] for name, value in update.metrics.items()})
