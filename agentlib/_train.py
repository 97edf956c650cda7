"""`agentlib.train`: the ready-made caller of `run`, with progress, logs, evaluation, checkpoints and early stop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.backbones.schedules import Clock
from agentlib.envs.making import is_made
from agentlib.evaluation.recording import torch_threads
from agentlib.recipes import Job, Problem, Result, configure, recipe_of, steps_of
from agentlib.recipes.folder import RunFolder
from agentlib.recipes.lock import Lock
from agentlib.recipes.problem import is_large
from agentlib.recipes.record import about_of, read_record, record_of
from agentlib.training.compiled import telling
from agentlib.training.learner import Update
from agentlib.training.logs import Log, Progress
from agentlib.training.loop import Compile, Precision, compiles, engine, run
from agentlib.training.trees import copied

Callback = Callable[[Clock, dict[str, float]], bool | None]

LOGS_PER_RUN = 100
CHECKPOINTS_PER_RUN = 10
SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""A checkpoint is written at the start, and when a tenth of the run is over or a minute, whichever comes first."""


def train(
    what: Any = None,
    *,
    env: Any = None,
    n_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    data: Any = None,
    demos: Any = None,
    expert: Any = None,
    steps: int | None = None,
    seed: int = 0,
    backbone: str | Path | Mapping[str, Any] | nn.Module = "auto",
    device: str | torch.device = "auto",
    agent: Agent | None = None,
    resume: str | Path | None = None,
    callback: Callback | None = None,
    eval_every: int | None = None,
    out: str | Path | None = None,
    progress: Progress = True,
    compile: Compile = "auto",
    precision: Precision = "float32",
    threads: int | Literal["auto"] | None = None,
    **hyperparameters: Any,
) -> Agent | Result:
    """Trains, and returns the agent; or, where no agent comes out, the result.

    Args:
        what: a name such as "dqn", which selects the preset for a known environment, or a config such as
            `DQNConfig(...)`, which is taken literally.
        env: an environment's id, an instance, a factory, or a vector environment.
        n_envs: environments stepped side by side (with an id or a factory).
        env_kwargs: given to the environment's constructor.
        data: for learners from data: a name (`agentlib list data`), a path, or a `Dataset`.
        demos: for learners from demonstrations: where they are, or `Demonstrations`.
        expert: for learners that ask one: a callable on batches, an agent, an SB3 model, or a name.
        steps: length of the whole run: environment steps for learners in an environment, updates for all others.
        seed: of weights, environments, exploration and sampling. The same seed gives the same run.
        backbone: "auto", another name, a file of `agentlib.backbones.save_backbone`, the spec of a backbone, or a
            built module with a `feature_dim`; its parameters that require no gradient stay as they are.
        device: "auto", "cpu", "cuda" ...
        agent: go on from this agent's weights; it stays as it is.
        resume: the folder of a run to go on with; other arguments are read from there.
        callback: called with the clock and the latest numbers about a hundred times per run; returning False stops it.
        eval_every: evaluate after so many steps, on held-out data or in episodes of their own, and keep the best agent.
        out: folder for the agent, checkpoints, TensorBoard events and results; nothing is written without it.
        progress: True shows a bar, "table" prints a table now and then.
        compile: see `agentlib.training.run`.
        precision: see `agentlib.training.run`.
        threads: torch's threads for as long as the run goes: a number, or "auto" for one where networks are small, for
            which more only wait for each other; None leaves the host's.
        hyperparameters: fields of the config, checked by name.

    Raises:
        ValueError: something does not fit, or another run is at work in the folder; the message says what would.
        FloatingPointError: the loss is NaN or infinite; the last good checkpoint stays.
        EnvironmentFailure: the environment raised or gave what cannot be learned from; with `out`, what was learned is
            kept there.
    """
    origins = {"env": env, "data": data, "demos": demos, "expert": expert}
    if resume is not None:
        given = {"steps": steps, "out": out, "agent": agent, "eval_every": eval_every, "env_kwargs": env_kwargs}
        changed = [name for name, value in given.items() if value is not None]
        return _resume(resume, origins, backbone, callback, progress, compile, changed + list(hyperparameters))
    if agent is not None and not isinstance(agent, Agent):
        raise ValueError(f"agent= takes an Agent, such as Agent.load(path), not {type(agent).__name__}")
    if not isinstance(seed, int):
        raise ValueError(f"a seed is a whole number, not {seed!r}")
    if eval_every is not None and is_made(env):
        raise ValueError("eval_every needs env= as an id or a factory: it evaluates in an environment of its own")
    recipe = recipe_of(what)
    for name, value in origins.items():
        if value is not None and name not in (*recipe.needs, *recipe.takes):
            raise ValueError(f"{recipe.name} learns from {recipe.learns_from}, not from {name}=")
    problem = Problem(n_envs=n_envs, env_kwargs=env_kwargs or {}, steps=steps, agent=agent, **origins)
    problem = replace(problem, steps=steps_of(what, problem))
    config = configure(what, problem.key, hyperparameters)
    job = recipe.build(config, problem, backbone, device, seed)
    try:
        folder = None
        if out is not None:
            folder = RunFolder(out)
            means = eval_every, compile, precision, threads
            folder.create(record_of(recipe, config, problem, backbone, device, seed, *means))
        name = f"{recipe.name}, seed {seed}"
        with torch_threads(_count(threads, job.learner)):
            training = _Training(job, folder, callback, eval_every, progress, compile, precision, name)
            training.about = about_of(recipe, problem, seed)
            return training.go()
    finally:
        job.close()


def _resume(
    path: str | Path,
    origins: dict[str, Any],
    backbone: str | Path | Mapping[str, Any] | nn.Module,
    callback: Callback | None,
    progress: Progress,
    compile: Compile,
    rest: list[str],
) -> Agent | Result:
    if rest:
        raise ValueError(f"a run is resumed with its own settings: {', '.join(rest)} cannot be changed; a new run goes "
                         "on from its agent: agent=Agent.load(...)")  # fmt: skip
    folder = RunFolder(path)
    record, recipe, config = read_record(folder)
    for name in set(record.objects) & set(origins):
        if origins[name] is None:
            raise ValueError(f"{path} does not name its {name} (it was given as an object): give {name}=... again")
    origins = {name: value if value is not None else getattr(record, name) for name, value in origins.items()}
    if record.backbone is None and isinstance(backbone, str):
        raise ValueError(f"{path} was trained on a backbone of your own: give backbone=... again")
    problem = Problem(n_envs=record.n_envs, env_kwargs=record.env_kwargs or {}, steps=record.steps, **origins)
    if compile == "auto":
        compile = record.compile
    job = recipe.build(config, problem, record.backbone or backbone, record.device, record.seed)
    try:
        every, precision = record.eval_every, record.precision
        with torch_threads(_count(record.threads, job.learner)):
            training = _Training(job, folder, callback, every, progress, compile, precision, recipe.name)
            training.about = about_of(recipe, problem, record.seed)
            training.resume(record.from_agent)
            return training.go()
    finally:
        job.close()


def _count(threads: int | Literal["auto"] | None, learner: nn.Module) -> int | None:
    if threads == "auto":
        return None if is_large(learner) else 1
    return threads


class _Training:
    """One run of a job: reads metrics rarely, and does what is due then."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder | None,
        callback: Callback | None,
        eval_every: int | None,
        progress: Progress,
        compile: Compile,
        precision: Precision,
        name: str,
    ) -> None:
        self.job, self.folder, self.callback, self.precision = job, folder, callback, precision
        # By the whole run's length, not by what is left of it: a resumed run goes on as it began.
        self.compile = compiles(job.learner, job.updates, compile)
        self.way: Compile = "try" if self.compile and compile is not True else self.compile
        self.eval_every = eval_every if eval_every is not None else job.eval_every
        if self.eval_every is not None and job.evaluate is None:
            raise ValueError("there is nothing to evaluate on: leave out eval_every, or give what is held out")
        self.lock = Lock(folder.path) if folder is not None else None
        self.log = Log(folder.path if folder else None, progress, job.steps, name)
        self.log_every = max(job.steps // LOGS_PER_RUN, 1)
        self.next_log, self.next_eval = self.log_every, self.eval_every or 0
        self.save_every = max(job.steps // CHECKPOINTS_PER_RUN, 1)
        self.next_save, self.saved_at = 0, time.monotonic()
        self.metrics: dict[str, float] = {}
        self.about: dict[str, Any] = {}
        self.best, self.waited = -math.inf, 0
        self.best_weights: Any = None

    _REMEMBERED = ("best", "waited", "best_weights", "metrics", "next_log", "next_eval")

    def state(self) -> dict[str, Any]:
        """What logging, evaluating and stopping early have to remember, and what the numbers were computed by."""
        return {name: getattr(self, name) for name in self._REMEMBERED} | {
            "engine": engine(self.job.source, self.compile, self.precision)
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave; warns if the run now computes by other means than before."""
        for name in self._REMEMBERED:
            setattr(self, name, state[name])
        now = engine(self.job.source, self.compile, self.precision)
        old = state["engine"]
        changed = [f"{name} was {old[name]}, is {now[name]}" for name in now if name in old and old[name] != now[name]]
        if changed:
            warnings.warn(
                f"the run goes on by other means than before ({'; '.join(changed)}): it equals one that was never "
                "stopped only up to rounding",
                stacklevel=3,
            )

    def product(self) -> Agent | nn.Module:
        """The job's product as it is now; an agent says how it was trained."""
        product = self.job.product()
        if isinstance(product, Agent):
            product.about |= self.about
        return product

    def go(self) -> Agent | Result:
        source = self.job.source
        self.log.begin(int(source.clock.steps))
        before = telling.set(self.log.note)
        try:
            if self.folder is not None and not self.folder.checkpoints():
                self._save()
            self.next_save = int(source.clock.steps) + self.save_every
            for clock, update in self._updates():
                steps = int(clock.steps)
                if steps >= self.next_log:
                    self.next_log = steps + self.log_every
                    if self._report(clock, update) is False:
                        break
                if self.folder is not None and self._save_is_due(steps):
                    self._refuse_nan(clock, update)
                    self._save()
            return self._finish()
        except (KeyboardInterrupt, Exception) as stop:
            # After a loss that is NaN the weights are worth nothing; after anything else they are.
            if self.folder is not None and not isinstance(stop, FloatingPointError):
                self._rescue(stop, self.folder)
            raise
        finally:
            telling.reset(before)
            self.close()

    def resume(self, needs_checkpoint: bool) -> None:
        """Goes on from the newest checkpoint; a run that was killed before its first one starts again."""
        assert self.folder is not None
        try:
            self.folder.sweep()
            if needs_checkpoint or self.folder.checkpoints():
                self.load_state(self.folder.load(self.job.learner, self.job.source))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the log, and lets others into the folder."""
        self.log.close()
        if self.lock is not None:
            self.lock.release()

    def _rescue(self, stop: BaseException, folder: RunFolder) -> None:
        """Saves what was learned; the message of what stopped the run then says where, or why it could not be."""
        try:
            self._save()
            told = f"what was learned so far is in {folder.path}"
        except KeyboardInterrupt as again:
            again.args = (f"at once, nothing more was saved; {_last_good(folder)}",)
            raise
        except OSError as error:
            told = f"what was learned since could not be saved ({error}); {_last_good(folder)}"
        if isinstance(stop, OSError) and stop.strerror is not None:  # whose text is not in its arguments
            stop.strerror = f"{stop.strerror}; {told}"
        else:
            stop.args = (f"{stop}; {told}".removeprefix("; "), *stop.args[1:])

    def _save_is_due(self, steps: int) -> bool:
        return steps >= self.next_save or time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def _save(self) -> None:
        assert self.folder is not None
        self.folder.save(self.job.learner, self.job.source, self.state())
        self.folder.save_product(self.product())
        self.next_save, self.saved_at = int(self.job.source.clock.steps) + self.save_every, time.monotonic()

    def _updates(self) -> Iterator[tuple[Clock, Update]]:
        """All updates of the job that are still to do."""
        learner, source, finished = self.job.learner, self.job.source, self.job.finished
        options: Any = {"compile": self.way, "precision": self.precision}
        if self._waited_long_enough():  # what is resumed had stopped by itself
            return
        if finished is None:
            yield from run(learner, source, self.job.updates - source.updates, **options)
            return
        while not finished():
            left = self.job.updates - source.updates  # may be a guess that was too low
            # Always to the same numbers of updates, wherever the run is resumed.
            for pair in run(learner, source, left if left > 0 else 1000 + left % -1000, **options):
                yield pair
                if finished():
                    break

    def _waited_long_enough(self) -> bool:
        return self.job.patience is not None and self.waited >= self.job.patience

    def _report(self, clock: Clock, update: Update) -> bool | None:
        metrics = self._refuse_nan(clock, update) | self.job.measures()
        if self.eval_every is not None and int(clock.steps) >= self.next_eval:
            self.next_eval = int(clock.steps) + self.eval_every
            metrics |= self._evaluate()
        self.metrics |= metrics
        self.log.write(clock, metrics)
        if self._waited_long_enough():
            return False
        return self.callback(clock, dict(metrics)) if self.callback is not None else None

    def _refuse_nan(self, clock: Clock, update: Update) -> dict[str, float]:
        """The update's metrics as numbers."""
        metrics = {f"train/{name}": float(value) for name, value in update.metrics.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(self._diverged(name, value, clock))
        return metrics

    def _diverged(self, name: str, value: float, clock: Clock) -> str:
        message = f"{name} became {value} by step {int(clock.steps)}: a smaller learning_rate or max_grad_norm may help"
        trouble = self.job.source.trouble()
        message += f"; {trouble}" if trouble else ""
        if self.folder is None:
            return message
        return f"{message}; {_last_good(self.folder)}"

    def _evaluate(self) -> dict[str, float]:
        assert self.job.evaluate is not None
        scores = self.job.evaluate()
        score = scores[self.job.objective] * (-1.0 if self.job.lower_is_better else 1.0)
        self.waited += 1
        if score > self.best:
            self.best, self.waited = score, 0
            product = self.product()
            if self.folder is not None and isinstance(product, Agent):
                product.save(self.folder.path / "best_agent.safetensors")
            if self.job.patience is not None:
                self.best_weights = copied(self.job.learner)
        return scores

    def _finish(self) -> Agent | Result:
        job, folder = self.job, self.folder
        if folder is not None:
            folder.save(job.learner, job.source, self.state())
        if self.best_weights is not None:
            job.learner.load_state_dict(self.best_weights)
        product = self.product()
        job.learner.eval()
        measures = job.finish()
        pictures: list[Path] = []
        if folder is not None:
            folder.save_product(product)
            try:
                pictures = job.pictures(folder.path)
            except ImportError as error:  # a long run shall not end without its results for want of matplotlib
                job.tables["pictures_missing"] = str(error)
            folder.write_results(
                {
                    "steps": int(job.source.clock.steps),
                    "metrics": self.metrics,
                    "measures": measures,
                    "references": {name: vars(reference) for name, reference in job.references.items()},
                    "pictures": [picture.name for picture in pictures],
                    **job.tables,
                }
            )
        model = product.policy if isinstance(product, Agent) else product
        model.eval()
        if isinstance(product, Agent) and not job.gives_result:
            return product
        agent = product if isinstance(product, Agent) else None
        return Result(model, self.metrics, measures, job.references, tuple(pictures), agent)


def _last_good(folder: RunFolder) -> str:
    good = folder.checkpoints()
    return f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was due before that"
