"""The work on a sweep's folder: trials, and the runs that compare the best settings to the usual ones.

Any number of processes may work on one folder, also on several machines that share it. Each takes the next trial under
a lock; a trial or a run whose process has ended is taken over by another, from its newest checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agentlib.core.config import config_from_json
from agentlib.core.names import one_line
from agentlib.core.source import Diverged
from agentlib.plots.report import write_json
from agentlib.runs.folder import RunFolder
from agentlib.runs.lock import locked
from agentlib.runs.options import RunOptions, read_record
from agentlib.runs.searching import config_with, distributions, import_optuna, settings_from
from agentlib.runs.sweep_result import Trial, best_of
from agentlib.runs.train import train

FRESH = 500_000
"""The seeds of the comparison begin this far above the first trial's."""
MOST_FAILURES = 5
"""A sweep of which the first trials have all failed ends after this many."""
STARTUP_TRIALS = 10
"""Trials at random, before TPE chooses by their results."""
FEWEST = 10
"""Completed trials from which on it is said how important each hyperparameter is."""
SECONDS_TO_WAIT = 0.5
"""Between two looks at what other processes are at."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a sweep searches, as its file has it."""

    space: dict[str, Any]
    trials: int
    seeds: int
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "halving", "none"]
    compare_seeds: int
    eval_every: int
    """Steps between evaluations."""
    objective: str
    """The score of an evaluation that is made best."""
    lower_is_better: bool
    takes_best: bool
    """Whether a run's best evaluation is its score, as it goes back to it, and not its last one."""


class SweepFolder(RunFolder):
    """Has `sweep.json`, Optuna's `journal.log`, a folder for each run in `trials/` and `comparison/`, the report."""

    @property
    def config_file(self) -> Path:
        return self.path / "sweep.json"

    def storage(self) -> Any:
        """Optuna's journal; a last line that a killed process has left half written is taken away."""
        file, storages = self.path / "journal.log", import_optuna().storages
        lock = storages.journal.JournalFileOpenLock(str(file))
        if _is_cut(file):
            lock.acquire()  # perhaps another process is about to write the rest
            try:
                if _is_cut(file):
                    os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
            finally:
                lock.release()
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(file), lock_obj=lock))

    def begin(self, record: Mapping[str, Any], search: Mapping[str, Any]) -> None:
        """Makes the folder of a new sweep, with its file and an empty study."""
        self.create({**record, "sweep": search})
        direction = "minimize" if search["lower_is_better"] else "maximize"
        logger = logging.getLogger("optuna")  # which says that there is a study now
        before = logger.level
        logger.setLevel(logging.WARNING)
        try:
            import_optuna().create_study(storage=self.storage(), study_name="sweep", direction=direction)
        finally:
            logger.setLevel(before)

    def lengthen(self, steps: int | None) -> None:
        """Writes another number of trials into `sweep.json`."""
        content = self.record()
        write_json(self.config_file, content | {"sweep": content["sweep"] | {"trials": steps}})


class Pruned(Exception):
    """A trial ends, as others were better by then."""


class Claim(NamedTuple):
    """A piece of work that this process alone does."""

    lock: ExitStack
    do: Callable[[], object]


class Work:
    """What there is to do in a sweep's folder.

    Args:
        folder: the sweep's.
        what: as `sweep` takes it; needed where the recipe is none of agentlib's.
        objects: options of `train` that have no name in the file.
        progress: write a line for each trial to the standard error stream.

    Raises:
        ValueError: the folder's file is damaged, or an object is missing.
    """

    def __init__(self, folder: SweepFolder, what: Any, objects: Mapping[str, Any], progress: bool) -> None:
        record, self.recipe, options = read_record(folder, what)
        self.folder, self.objects, self.progress = folder, objects, progress
        self.own = what if record.has_own_recipe else None
        for name in record.objects:
            if name not in objects:
                raise ValueError(f"{folder.given} was given its {name} as an object: give {name}=... again")
        self.unnamed = [*record.objects, *["recipe"] * (self.own is not None and not isinstance(what, str))]
        self.config, self.seed = options.config, options.seed
        left_out = ("config", "seed", "out", "progress", "eval_every", "video_every", "agent")
        self.options = {f.name: getattr(options, f.name) for f in fields(RunOptions) if f.name not in left_out}
        self.options |= objects
        self.search = config_from_json(Search, folder.record().get("sweep", {}))
        self.distributions = distributions(self.search.space)

    def run(self) -> None:
        """Does trials, and then the runs of the comparison, until there is nothing left to do."""
        for next_claim in (self._claim_trial, self._claim_run):
            while (claim := next_claim()) is not False:
                if claim is True:  # others are at work on the last ones
                    time.sleep(SECONDS_TO_WAIT)
                    continue
                with claim.lock:
                    claim.do()

    def study(self) -> Any:
        """The study as it is on the disk now.

        The sampler's seed is the number of the next trial, so that a sweep that was stopped goes on as if it had not.
        """
        optuna = import_optuna()
        pruners = {
            "median": optuna.pruners.MedianPruner(),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
            "none": optuna.pruners.NopPruner(),
        }
        pruner = pruners[self.search.pruner]
        study = optuna.load_study(storage=self.folder.storage(), study_name="sweep", pruner=pruner)
        seed = (self.seed * 10_007 + len(study.get_trials(deepcopy=False))) % 2**32
        study.sampler = optuna.samplers.RandomSampler(seed)
        if self.search.sampler == "tpe":  # its defaults have changed between versions
            settings = {"n_startup_trials": STARTUP_TRIALS, "multivariate": True, "constant_liar": True}
            study.sampler = optuna.samplers.TPESampler(seed=seed, **settings)
        return study

    def trials(self) -> tuple[Trial, ...]:
        """All trials so far."""
        return tuple(self._trial(one) for one in self.study().get_trials(deepcopy=False))

    def scores(self, number: int | None) -> tuple[float, ...]:
        """Those of the comparison's runs of a trial's settings, or of the default ones, None; NaN if one diverged."""
        found = [_read(self._place(_compared(number, seed), seed)) for seed in self.fresh_seeds]
        return tuple(score for _, score in found if score is not None)

    def importance(self) -> dict[str, float]:
        """The share of each hyperparameter in what tells the best tenth from the others; empty where nothing does."""
        values = sorted(trial.value or 0.0 for trial in self.trials() if trial.state == "COMPLETE")
        if not self.search.lower_is_better:
            values.reverse()
        if len(values) < FEWEST or values[-(-len(values) // 10)] == values[-1]:
            return {}
        importance = import_optuna().importance
        evaluator = importance.PedAnovaImportanceEvaluator()
        return dict(importance.get_param_importances(self.study(), evaluator=evaluator))

    @property
    def fresh_seeds(self) -> range:
        """Seeds that no trial has."""
        return range(self.seed + FRESH, self.seed + FRESH + self.search.compare_seeds)

    def _trial(self, frozen: Any) -> Trial:
        number, count = frozen.number, self.search.seeds
        is_whole = frozen.params.keys() == self.search.space.keys()
        settings = settings_from(self.search.space, frozen.params, self.config) if is_whole else {}
        seeds = tuple(range(self.seed + number * count, self.seed + (number + 1) * count))
        value = (
            frozen.value if frozen.value is not None else next(iter([*frozen.intermediate_values.values()][-1:]), None)
        )
        return Trial(number, frozen.state.name, value, settings, seeds, frozen.user_attrs.get("error", ""))

    def _place(self, name: str, seed: int) -> Path:
        """The folder of a run."""
        return self.folder.path / name / f"seed_{seed}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Inside, no other process takes work."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder.path))
                    break
                except ValueError:
                    time.sleep(0.02)
            yield

    def _lock(self, name: str) -> ExitStack | None:
        """Takes a piece of work; None where another has it."""
        stack = ExitStack()
        try:
            stack.enter_context(locked(self.folder.path / name))
        except ValueError:
            return None
        return stack

    def _claim_trial(self) -> Claim | bool:
        """The next trial; True while others are at work on the last ones, False when all are done."""
        with self._asking():
            study = self.study()
            frozen = study.get_trials(deepcopy=False)
            running = [trial.number for trial in frozen if not trial.state.is_finished()]
            for number in running:  # by a process that has ended?
                if (lock := self._lock(f"trials/{number:04}")) is not None:
                    return Claim(lock, partial(self._try, study, number))
            failed = [trial for trial in frozen if trial.state.name == "FAIL"]
            if len(failed) == len(frozen) >= min(MOST_FAILURES, self.search.trials):
                error = failed[0].user_attrs.get("error")
                raise ValueError(f"all {len(failed)} trials failed; the first one: {error}")
            if len(frozen) >= self.search.trials:
                return bool(running)
            number = study.ask(self.distributions).number
            lock = self._lock(f"trials/{number:04}")
            assert lock is not None
            return Claim(lock, partial(self._try, study, number))

    def _claim_run(self) -> Claim | bool:
        """The next run of the comparison; True and False as from `_claim_trial`."""
        if not self.search.compare_seeds:
            return False
        best = best_of(self.trials(), self.search.lower_is_better)
        is_waiting = False
        for number, config in ((best.number, config_with(self.config, best.settings)), (None, self.config)):
            for seed in self.fresh_seeds:
                name = _compared(number, seed)
                if _read(self._place(name, seed))[1] is not None:
                    continue
                if (lock := self._lock(name)) is not None:
                    return Claim(lock, partial(self._compare, name, config, seed))
                is_waiting = True
        return is_waiting

    def _try(self, study: Any, number: int) -> None:
        """Does a trial, or the rest of it."""
        frozen = study.get_trials(deepcopy=False)[number]
        trial, (_, _, _, settings, seeds, _) = import_optuna().trial.Trial(study, frozen._trial_id), self._trial(frozen)
        reported, scores = set(frozen.intermediate_values), list[float]()

        def report(index: int, value: float) -> None:
            # Evaluations of the second seed come after all of the first one; each is the mean with what is known.
            step = index + len(scores) * 2**16
            if step not in reported:
                trial.report((sum(scores) + value) / (len(scores) + 1), step)
            if trial.should_prune():
                raise Pruned

        state = import_optuna().trial.TrialState
        try:
            if not settings:
                raise ValueError("its process ended before it had settings")
            config = config_with(self.config, settings)
            for seed in seeds:
                scores.append(self._score(f"trials/{number:04}", config, seed, report))
        except Pruned:
            study.tell(number, state=state.PRUNED)
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {one_line(error)}")
            study.tell(number, state=state.FAIL)
        else:
            study.tell(number, sum(scores) / len(scores))
        if self.progress and sys.stderr is not None:
            sys.stderr.write(f"{self._trial(study.get_trials(deepcopy=False)[number])}\n")

    def _compare(self, name: str, config: Any, seed: int) -> None:
        """Does a run of the comparison; one that diverges has ended, as it would each time."""
        try:
            self._score(name, config, seed)
        except Diverged as error:
            place = self._place(name, seed)
            content = {"evaluations": _read(place)[0], "diverged": one_line(error)}
            write_json(place.with_suffix(".json"), content)

    def _score(
        self, name: str, config: Any, seed: int, report: Callable[[int, float], None] = lambda index, value: None
    ) -> float:
        """The score of a run, which is done, or gone on with; its checkpoints are deleted when it has ended.

        Raises:
            Pruned: `report` raised it.
            Diverged: an evaluation is no finite number.
            ValueError: it had no evaluation; and what `train` raises.
        """
        search, place = self.search, self._place(name, seed)
        values, score = _read(place)
        if score is not None:
            return score

        def note(clock: Any, metrics: Mapping[str, float]) -> None:
            value = metrics[search.objective]
            if not math.isfinite(value):
                raise Diverged(f"{search.objective} became {value} by step {int(clock.steps)}", int(clock.steps))
            index = int(clock.steps) // search.eval_every
            values[index] = value
            write_json(place.with_suffix(".json"), {"evaluations": values})
            report(index, value)

        common: dict[str, Any] = {"callback": {"evaluation": note}, "progress": False}
        try:
            if RunFolder(place).config_file.exists():
                train(self.own, resume=place, **common, **self.objects)
            else:
                run: dict[str, Any] = {"seed": seed, "out": place, "eval_every": search.eval_every}
                train(self.recipe, **common, **run, **self.options, **_fields(config))
        finally:
            if not isinstance(sys.exception(), KeyboardInterrupt | SystemExit):  # after which it is gone on with
                for part in ("checkpoints", "replay"):
                    shutil.rmtree(place / part, ignore_errors=True)
        if not values:
            raise ValueError("the run ended before its first evaluation")
        last, best = values[max(values)], (min if search.lower_is_better else max)(values.values())
        score = best if search.takes_best else last
        write_json(place.with_suffix(".json"), {"evaluations": values, "score": score})
        return score


def _is_cut(journal: Path) -> bool:
    """Whether the last line has no end."""
    return journal.exists() and not (journal.read_bytes() or b"\n").endswith(b"\n")


def _compared(number: int | None, seed: int) -> str:
    """A run of the comparison: of a trial's settings, since a longer sweep may find better ones, or of the default."""
    return f"comparison/{'default' if number is None else f'trial_{number:04}'}_{seed}"


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def _read(place: Path) -> tuple[dict[int, float], float | None]:
    """A run's evaluations, by their number, and its score if it has ended, NaN if it has diverged."""
    try:
        content = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        values = {int(index): float(value) for index, value in content["evaluations"].items()}
        return values, math.nan if "diverged" in content else content.get("score")
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}, None
