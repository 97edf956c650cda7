"""One run of a job: progress, logs, evaluation, checkpoints and early stop around the loop."""

from __future__ import annotations

import math
import time
import warnings
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import spec_of
from agentlib.core.config import config_to_json
from agentlib.core.learner import Learner, Update
from agentlib.core.progress import showing
from agentlib.core.recipe import Job, Length, Recipe
from agentlib.core.schedules import Clock
from agentlib.core.source import Diverged as Diverged
from agentlib.core.source import Source
from agentlib.core.trees import copied
from agentlib.engine.compiled import notices
from agentlib.engine.loop import compiles, engine, run
from agentlib.envs.making import arguments_of
from agentlib.families.control import CURVES
from agentlib.plots.report import provenance, write_json
from agentlib.runs.callbacks import Callbacks, by_moment, call
from agentlib.runs.folder import RunFolder
from agentlib.runs.logs import Log
from agentlib.runs.options import RunOptions
from agentlib.runs.report import write_report
from agentlib.runs.result import Result
from agentlib.runs.trackers import trackers_of

LOGS_PER_RUN = 100
CHECKPOINTS_PER_RUN = 10
FILM_STEPS = 1_000
"""Steps of a film; a longer episode is cut off."""
SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""A checkpoint is written at the start, and when a tenth of the run is over or a minute, whichever comes first."""


@dataclass
class _Progress:
    """The state of logging, evaluating and stopping early."""

    best: float = -math.inf
    waited: int = 0
    best_weights: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    next_log: int = 0
    next_eval: int = 0
    next_film: int = 0
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """Steps and values of returns and losses, for the pictures of the run."""


class Training:
    """One run of a job: reads metrics rarely, and does what is due then."""

    def __init__(
        self, recipe: Recipe, job: Job, options: RunOptions, folder: RunFolder | None, callback: Callbacks | None
    ) -> None:
        self.recipe, self.job, self.options, self.folder = recipe, job, options, folder
        self.callbacks, self.is_ended = by_moment(callback) or {}, False
        self.member: int | None = None
        """Its number among several seeds that are trained at once."""
        self.ranks = job.learner.ranks
        # By the whole run's length, not by what is left of it: a resumed run goes on as it began.
        self.compile = compiles(job.learner, job.length.updates, options.compile)
        judge, steps = job.judge, job.length.steps
        self.eval_every = (options.eval_every or judge.eval_every) if judge.evaluates else None
        self.patience = math.inf if judge.patience is None else judge.patience
        self.log_every, self.save_every = max(steps // LOGS_PER_RUN, 1), max(steps // CHECKPOINTS_PER_RUN, 1)
        self.now = _Progress(next_log=self.log_every, next_eval=self.eval_every or 0)
        self.next_save, self.saved_at = 0, time.monotonic()
        job.judge.curves = self.now.curves
        self.about: dict[str, Any] = {"learner": recipe.name, "steps": options.steps, "seed": options.seed}
        if options.key is not None:
            self.about["trained_on"] = options.key
        if kwargs := arguments_of(options.env, options.env_kwargs):
            self.about["env_kwargs"] = kwargs
        for name in ("sample_steps", "sampler", "guidance_scale"):  # how samples are drawn of it
            if (value := getattr(options.config, name, None)) is not None:
                self.about[name] = value
        self.about |= judge.about
        if isinstance(job.product, Agent):  # its file says how it was trained
            job.product.about |= self.about
            job.product.training = recipe, replace(options, agent=None), job.learner

    @property
    def step(self) -> int:
        """Steps that lie behind."""
        return int(self.job.source.clock.steps)

    def go(self) -> Agent | Result:
        """Trains to the end. Of a run that had come there before, the result, and nothing is written."""
        if self.folder is not None and self.folder.results_file.exists() and self._is_over():
            return self._finish(None)
        with self.at_work():
            for clock, update in () if self.is_ended else self._updates():
                if self.is_due(clock) and self.after(clock, update):
                    break
            return self.end()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, the run is logged; whatever ends it there, what was learned is saved in its folder, if any."""
        name = f"{self.recipe.name}, seed {self.options.seed}"
        place = None if self.folder is None else self.folder.path
        settings = self.about | config_to_json(self.options.config)
        trackers = trackers_of(self.options.log, place, f"{self.recipe.name}-{self.options.key}", settings)
        self.log = Log(trackers, self.options.progress, self.step, self.job.length.steps, name)
        before = notices.set(self.log.note)
        try:
            if self.folder is not None and not self.folder.checkpoints():
                self._save()
            self.next_save = self.step + self.save_every
            self._tell("start", self.job.source.clock, {})
            self._film()
            if self.ranks is not None and not self._is_over():
                self.is_ended = bool(self.ranks.from_first(self.is_ended))
            yield
        except (KeyboardInterrupt, SystemExit, CancelledError, Exception) as stop:
            is_lost = isinstance(stop, Diverged) and stop.member in (None, self.member)
            if isinstance(stop, Diverged) and is_lost and self.folder is not None and stop.saved_in is None:
                stop.saved_in = self.folder.path
                stop.add_note(_last_good(self.folder))
            # After a loss that is NaN the weights are worth nothing; after anything else they are.
            if self.folder is not None and not is_lost:
                self._rescue(stop, self.folder)
            raise
        finally:
            notices.reset(before)
            self.log.close()

    def is_due(self, clock: Clock) -> bool:
        """Whether something is to do after this update."""
        steps = int(clock.steps)
        asked = self.options.eval_every is not None and steps >= self.now.next_eval
        saved = self._saving_is_due(steps)
        return steps >= self.now.next_log or asked or self.is_ended or saved or self._film_is_due(steps)

    def after(self, clock: Clock, update: Update) -> bool:
        """Does what is due after an update; whether the run is to stop."""
        steps = int(clock.steps)
        asked = self.options.eval_every is not None and steps >= self.now.next_eval
        if steps >= self.now.next_log or asked:
            if steps >= self.now.next_log:
                self.now.next_log = steps + self.log_every
            if self._report(clock, update):
                return True
        self._film()
        if self._saving_is_due(steps):
            self._numbers(clock, update)
            self._save()
            self._tell("checkpoint", clock, self.now.metrics)
        return self.is_ended and self.ranks is None  # several end together, where they report

    def end(self) -> Agent | Result:
        """The result of the whole run, in its folder too."""
        self._tell("end", self.job.source.clock, self.now.metrics)
        return self._finish(self.folder)

    def _saving_is_due(self, steps: int) -> bool:
        return self.folder is not None and (
            steps >= self.next_save or time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
        )

    def resume(self, needs_checkpoint: bool, has_new_length: bool) -> None:
        """Goes on from the newest checkpoint; a run that was killed before its first one starts again.

        A run with a new length goes on even if it had stopped by itself. Warns if the run now computes by other means
        than before.

        Raises:
            ValueError: the new length is already behind.
        """
        assert self.folder is not None
        if self.ranks is None or self.ranks.is_first:
            self.folder.sweep()
        if not needs_checkpoint and not self.folder.checkpoints():
            return
        state = self.folder.load(self.job.learner, self.job.source)
        self.now = _Progress(**state["progress"])
        self.job.judge.curves = self.now.curves
        if has_new_length:
            self.now.waited = 0
            if self.step >= self.job.length.steps:
                raise ValueError(
                    f"{self.folder.path} has done {self.step:,} steps already: steps= must be more to go on"
                )
        now, old = self._state()["engine"], state["engine"]
        changed = [f"{name} was {old[name]}, is {now[name]}" for name in now if name in old and old[name] != now[name]]
        if changed:
            rest = "it equals one that was never stopped only up to rounding"
            warnings.warn(f"the run goes on by other means than before ({'; '.join(changed)}): {rest}", stacklevel=2)

    def _state(self) -> dict[str, Any]:
        means = engine(self.job.source, self.compile, self.options.precision)
        return {"progress": vars(self.now), "engine": means}

    def _save(self) -> None:
        assert self.folder is not None
        self.folder.save(self.job.learner, self.job.source, self._state())
        self.folder.save_product(self._product(), self.about)
        self.next_save, self.saved_at = self.step + self.save_every, time.monotonic()

    def _product(self) -> Any:
        """The product; an agent knows how its experience was."""
        product = self.job.product
        if isinstance(product, Agent):
            product.about |= self.job.source.about()
        return product

    def _rescue(self, stop: BaseException, folder: RunFolder) -> None:
        """Saves what was learned; a note on what stopped the run says where, or why it could not be."""
        saved_in = None
        try:
            self._save()
            note, saved_in = f"what was learned so far is in {folder.given}", folder.path
        except KeyboardInterrupt as again:
            again.add_note(f"at once, nothing more was saved; {_last_good(folder)}")
            again.saved_in, again.step = None, self.step  # type: ignore[attr-defined]
            raise
        except Exception as error:  # the note must not take the place of what stopped the run
            note = f"what was learned since could not be saved ({error}); {_last_good(folder)}"
        stop.add_note(note)
        if not isinstance(stop, Diverged):  # of another seed, whose place and step it has
            stop.saved_in, stop.step = saved_in, self.step  # type: ignore[attr-defined]

    def _is_over(self) -> bool:
        """Whether there is nothing left to do, as in a run that is resumed at its end."""
        source, length = self.job.source, self.job.length
        if self.now.waited >= self.patience:
            return True
        return source.updates >= length.updates if length.is_exact else source.finished

    def _updates(self) -> Iterator[tuple[Clock, Update]]:
        """All updates of the job that are still to do."""
        if not self._is_over():  # as a run that is resumed after it had stopped by itself is
            yield from updates_of(self.job.learner, self.job.source, self.job.length, self.options, self.compile)

    def _report(self, clock: Clock, update: Update) -> bool:
        """Logs, evaluates if it is time, and calls back; whether the run is to stop."""
        metrics = self._numbers(clock, update) | self.job.source.measures()
        steps, every = int(clock.steps), self.eval_every
        if every is not None and steps >= self.now.next_eval:
            # As often as the caller asked; a judge's own number is the least distance between logs with an evaluation.
            self.now.next_eval = steps + every - (0 if self.options.eval_every is None else steps % every)
            best = self.now.best
            metrics |= self._evaluate()
            for moment in ("evaluation", "best")[: 1 + (self.now.best > best)]:
                self._tell(moment, clock, metrics)
        self.now.metrics |= metrics
        for name in CURVES:
            if name in metrics:
                self.job.judge.note(int(clock.steps), name, metrics[name])
        self.log.write(clock, metrics)
        if self.now.waited >= self.patience:
            return True
        self._tell("log", clock, metrics)
        return self.ranks is not None and bool(self.ranks.from_first(self.is_ended))

    def _tell(self, moment: str, clock: Clock, metrics: dict[str, float]) -> None:
        """Calls the functions of a moment."""
        if functions := self.callbacks.get(moment):
            self.is_ended |= call(functions, clock, metrics, self.job.product)

    def _film(self) -> None:
        """Films an episode if it is time; of several processes, the first one does."""
        every = self.options.video_every
        if every is None or self.folder is None or not self._film_is_due(self.step):
            return
        self.now.next_film = self.step - self.step % every + every
        videos = self.folder.path / "videos"
        self.job.judge.film(videos / f"step_{self.step:012d}", FILM_STEPS)

    def _film_is_due(self, steps: int) -> bool:
        return self.options.video_every is not None and steps >= self.now.next_film

    def _numbers(self, clock: Clock, update: Update) -> dict[str, float]:
        """The update's metrics as numbers; raises `Diverged` where one is not finite."""
        metrics = {f"train/{name}": float(value) for name, value in update.metrics.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                step, folder = int(clock.steps), self.folder
                advice = f"{name} became {value} by step {step}: a smaller learning_rate or max_grad_norm may help"
                parts = (advice, self.job.source.trouble(), _last_good(folder) if folder else "")
                raise Diverged("; ".join(filter(None, parts)), step, folder.path if folder else None)
        return metrics

    def _evaluate(self) -> dict[str, float]:
        judge, product = self.job.judge, self.job.product
        scores: dict[str, float] = judge.evaluate() if self.ranks is None or self.ranks.is_first else {}
        if self.ranks is not None:
            scores = self.ranks.from_first({name: float(score) for name, score in scores.items()})
        score = scores[judge.objective] * (-1.0 if judge.lower_is_better else 1.0)
        self.now.waited += 1
        if score > self.now.best:
            self.now.best, self.now.waited = score, 0
            if self.folder is not None and isinstance(product, Agent):
                self._product().save(self.folder.path / "best_agent.safetensors")
            if judge.patience is not None:
                self.now.best_weights = copied(self.job.learner)
        return scores

    def _finish(self, folder: RunFolder | None) -> Agent | Result:
        """The result; in the folder, if any, too."""
        learner, judge, product = self.job.learner, self.job.judge, self._product()
        if folder is not None:
            folder.save(learner, self.job.source, self._state())
        if self.now.best_weights is not None:
            learner.load_state_dict(self.now.best_weights)
        learner.eval()
        with showing(self.options.progress):
            measures = judge.finish() if self.ranks is None or self.ranks.is_first else []
        pictures = [] if self.folder is None else sorted(self.folder.path.glob("*.png"))
        if folder is not None:
            folder.save_product(product, self.about)
            try:
                with showing(self.options.progress):
                    pictures = judge.draw(folder.path)
            except ImportError as error:  # a long run shall not end without its results for want of matplotlib
                judge.facts["pictures_missing"] = str(error)
        agent = product if isinstance(product, Agent) else None
        model: nn.Module = product if agent is None else agent.policy
        model.eval()
        result = Result(model, self.now.metrics, tuple(measures), tuple(pictures), agent)
        if folder is not None:
            results = {
                "steps": self.step,
                "metrics": result.metrics,
                "measures": result.measures,
                "references": {m.name: (m.reference, m.whose) for m in measures if m.reference is not None},
                "pictures": [picture.name for picture in pictures],
            }
            write_json(folder.results_file, results | judge.facts | provenance())
            write_report(folder.path / "report.html", self.recipe, self.options, result, judge.facts)
        return agent if agent is not None and "data" not in self.recipe.family.needs else result


def _last_good(folder: RunFolder) -> str:
    good = folder.checkpoints()
    return f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was due before that"


def check_looks(options: RunOptions, job: Job) -> None:
    """Raises ValueError or ImportError for evaluations, films or files that cannot be, or would never come.

    One step is filmed to see it.
    """
    if options.eval_every is not None:
        if not job.judge.evaluates:
            raise ValueError("there is nothing to evaluate on: leave out eval_every, or give what is held out")
        steps = job.length.steps if options.steps is not None or job.length.is_exact else math.inf
        if options.eval_every > steps:
            raise ValueError(f"eval_every must be between 1 and the run's {steps} steps, not {options.eval_every}")
    if options.video_every is not None:
        if options.out is None:
            raise ValueError("video_every needs a folder for its films: give out=...")
        if not job.judge.films:
            raise ValueError("there are no episodes to film: leave out video_every, or give env=...")
        with TemporaryDirectory() as place:
            job.judge.film(Path(place) / "film", 1)
    if options.out is not None and isinstance(job.product, Agent):
        spec_of(job.product.policy)  # an agent that could not be saved at the end is refused before training


def updates_of(
    learner: Learner, source: Source, length: Length, options: RunOptions, compiled: bool
) -> Iterator[tuple[Clock, Update]]:
    """All updates of a run that are still to do; `compiled` decides where the options leave it open."""
    way = options.compile
    if way == "auto":
        way = "try" if compiled else False
    precision = options.precision
    if length.is_exact:
        yield from run(learner, source, length.updates - source.updates, compile=way, precision=precision)
        return
    while not source.finished:
        left = length.updates - source.updates  # may be a guess that was too low
        # Always to the same numbers of updates, wherever the run is resumed.
        count = left if left > 0 else 1000 + left % -1000
        for pair in run(learner, source, count, compile=way, precision=precision):
            yield pair
            if source.finished:
                break
