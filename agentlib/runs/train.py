"""`agentlib.train`: the ready-made caller of `run`, with progress, logs, evaluation, checkpoints and early stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.core.host import plain_torch, torch_threads
from agentlib.core.learner import Learner
from agentlib.core.names import one_line, shown
from agentlib.core.ranks import Ranks
from agentlib.core.recipe import Recipe, gains_from_threads
from agentlib.data import Dataset, Splits
from agentlib.engine.loop import Compile, Precision
from agentlib.envs.checks import EnvironmentFailure
from agentlib.envs.making import EnvLike, is_made
from agentlib.experience import Demonstrations
from agentlib.runs.callbacks import Callbacks
from agentlib.runs.folder import RunFolder
from agentlib.runs.lock import locked
from agentlib.runs.logs import Progress
from agentlib.runs.options import ORIGINS, RECORDED, Record, RunOptions, check, read_record, record_of
from agentlib.runs.plan import plan
from agentlib.runs.result import Result
from agentlib.runs.seeds import seeds_of, train_seeds
from agentlib.runs.trackers import require_installed
from agentlib.runs.training import Training, check_looks


def train(
    what: str | Recipe | Any = None,
    *,
    env: EnvLike | Any = None,
    n_envs: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    max_steps: int | None = None,
    actors: int | None = None,
    data: str | Path | Dataset | Splits | tuple[Any, Any] | Any = None,
    demos: str | Path | Demonstrations | Any = None,
    expert: str | Path | Agent | Callable[..., Any] | Any = None,
    steps: int | None = None,
    seed: int | None = None,
    seeds: int | Sequence[int] | None = None,
    backbone: str | Path | Mapping[str, Any] | nn.Module = "auto",
    device: str | torch.device = "auto",
    agent: Agent | str | Path | None = None,
    resume: str | Path | None = None,
    callback: Callbacks | None = None,
    eval_every: int | None = None,
    n_eval_episodes: int = 10,
    video_every: int | None = None,
    out: str | Path | None = None,
    progress: Progress = True,
    log: Any = ("tensorboard",),
    compile: Compile = "auto",
    precision: Precision = "float32",
    threads: int | Literal["auto"] | None = None,
    data_parallel: bool = False,
    **hyperparameters: Any,
) -> Any:
    """Trains, and returns the agent; or, for learners from data, the `Result`; with `seeds`, a list of them.

    Args:
        what: a name such as "dqn", which selects the preset for a known environment; a config such as
            `DQNConfig(...)`, which is taken literally; or a `Recipe` of your own, or its place, "my_module:RECIPE".
        env, n_envs, env_kwargs, max_steps: an id, an instance or a factory; how many, arguments, longest episode.
        actors: processes, started by Ray, that step the environments; see docs/scaling.md.
        data, demos, expert: names, paths or objects.
        steps, seed: environment steps, or else updates; the seed is 0, or another one where an agent goes on.
        seeds: train this many seeds from `seed` on, or these, all at once, each in `out/seed_N`: see docs/scaling.md.
        backbone: "auto", another name, a saved file, a spec, or a built module with a `feature_dim`.
        device, precision, compile, threads: see `agentlib.engine.run`; threads is a number, "auto" or the host's, None.
        agent, resume: an agent to start from, or its file, or one that was trained here and goes on, optimizer and all,
            where `what` is left out; the folder of a run to go on with, longer by `steps`.
        callback: called a hundred times per run and at evaluations with the clock and the latest numbers; a false
            answer but None stops the run. `agentlib.runs.callbacks` has usual ones, and other moments.
        eval_every, n_eval_episodes, video_every: steps between evaluations, their episodes, steps between films of one.
        out, progress: the folder of agent, checkpoints, log and report, none by default; True for a bar, or "table".
        log: trackers, "tensorboard", "csv", "wandb", "trackio", "mlflow", or yours; see `agentlib.runs.trackers`. A run
            that is resumed keeps those that have names.
        data_parallel: share out each batch among torchrun's processes; the first logs, evaluates, saves, calls back.
        hyperparameters: fields of the config.

    Raises:
        ValueError: something does not fit, or another run is at work in the folder; the message says what would.
        Diverged, EnvironmentFailure: a metric is NaN or infinite; the environment failed. Whatever ends a run with a
            folder, Ctrl-C too, says in a note and in its attribute `saved_in` where the run is saved.
    """
    return (_begun if seeds is None else _several)(what, locals(), hyperparameters)


def _begun(what: Any, given: dict[str, Any], hyperparameters: dict[str, Any]) -> Agent | Result:
    """A new run, or one that goes on with a folder's or an agent's, from the arguments of `train`."""
    callback, resume, seed = given["callback"], given["resume"], given["seed"]
    check("callback", callback)
    ranks = Ranks.of_torchrun() if given["data_parallel"] else None
    if ranks is not None and not ranks.is_first:  # the first one shows, writes and calls back
        given, callback = given | {"progress": False, "log": (), "out": None, "video_every": None}, None
    if ranks is not None and given["actors"] is not None:
        raise ValueError("actors= and data_parallel=True exclude each other")
    values = {field.name: given[field.name] for field in fields(RunOptions) if given.get(field.name) is not None}
    options = RunOptions(**values)
    if resume is not None:
        return _resumed(what, resume, options, callback, ranks, [*_changed(options), *hyperparameters])
    if what is None and options.agent is not None and options.agent.training is not None:
        return _continued(options, seed, callback, ranks, hyperparameters)
    planned = plan(what, options, hyperparameters)
    return _trained(planned.recipe, planned.fill(options), callback, ranks)


def _several(what: Any, given: dict[str, Any], hyperparameters: dict[str, Any]) -> list[Any]:
    """A new run of several seeds, from the arguments of `train`."""
    check("callback", given["callback"])
    if given["resume"] is not None:
        raise ValueError('several seeds are resumed one by one: resume="FOLDER/seed_0", without seeds')
    if given["data_parallel"]:
        raise ValueError("seeds are trained at once by one process: leave out data_parallel")
    names = [field.name for field in fields(RunOptions) if given.get(field.name) is not None]
    seeds = seeds_of(given["seeds"], given["seed"])
    options = RunOptions(**{name: given[name] for name in names} | {"seed": seeds[0]})
    planned = plan(what, options, hyperparameters)
    with plain_torch():
        return train_seeds(planned.recipe, planned.fill(options), seeds, given["callback"])


def _given(options: RunOptions) -> dict[str, Any]:
    """The options that are not at their defaults."""
    given = {}
    for field in fields(options):
        value, default = getattr(options, field.name), {} if field.default is MISSING else field.default
        if value is not None if field.name in ORIGINS else value != default:
            given[field.name] = value
    return given


def _changed(options: RunOptions) -> list[str]:
    """The options that were given, but for those that may be given to a run that is resumed."""
    free = (*ORIGINS, "backbone", "progress", "log", "compile", "steps")
    return [name for name in _given(options) if name not in free]


def _continued(
    given: RunOptions,
    seed: int | None,
    callback: Callbacks | None,
    ranks: Ranks | None,
    hyperparameters: dict[str, Any],
) -> Agent | Result:
    """Goes on with the learner that trained an agent: its critic, its optimizer's state, and its options."""
    assert given.agent is not None
    recipe, before, learner = given.agent.training
    changed = {"out": None, "video_every": None} | _given(given)
    options = replace(before, **changed | {"seed": before.seed + 1 if seed is None else given.seed})
    config = plan(before.config, options, hyperparameters).config
    return _trained(recipe, replace(options, config=config), callback, ranks, None, learner)


def _resumed(
    what: Any,
    resume: str | Path,
    given: RunOptions,
    callback: Callbacks | None,
    ranks: Ranks | None,
    changed: list[str],
) -> Agent | Result:
    """Goes on with the run of a folder."""
    check("resume", resume)
    path = Path(resume)
    if changed:
        hint = f"but for steps; a new run goes on from its agent, agent={str(path)!r}"
        raise ValueError(f"a run is resumed with its own settings: {', '.join(changed)} cannot be changed, {hint}")
    record, recipe, options = read_record(RunFolder(path), what)
    if ":" in (options.env or "") and given.env is None:
        raise ValueError(
            f"{path} names the environment {shown(options.env)}, whose module would be imported: give env= again"
        )
    for name in record.objects:
        value = getattr(given, name)
        if value is None or (isinstance(value, str) and value == "auto"):
            kind = "trained on a backbone of your own" if name == "backbone" else f"given its {name} as an object"
            raise ValueError(f"{path} was {kind}: give {name}=... again")
    objects = {name: getattr(given, name) for name in RECORDED if name in record.objects}
    others = {name: getattr(given, name) for name in ORIGINS if getattr(given, name) is not None}
    if given.steps is not None:
        if given.steps < (options.steps or 0):
            raise ValueError(f"{path} has a length of {options.steps:,} steps: a run can be made longer, not shorter")
        others["steps"] = given.steps
    compile = options.compile if given.compile == "auto" else given.compile
    log = options.log if given.log == ("tensorboard",) else given.log
    options = replace(options, progress=given.progress, log=log, compile=compile, **others | objects)
    return _trained(recipe, options, callback, ranks, record)


def _trained(
    recipe: Recipe, options: RunOptions, callback: Callbacks | None, ranks: Ranks | None, *others: Any
) -> Agent | Result:
    """As `_trained_here`, where this process computes: of several, each has a GPU of its own."""
    with plain_torch(), nullcontext() if ranks is None else ranks.on_own_gpu(options.device):
        return _trained_here(recipe, options, callback, ranks, *others)


def _trained_here(
    recipe: Recipe,
    options: RunOptions,
    callback: Callbacks | None,
    ranks: Ranks | None,
    resumed: Record | None = None,
    learned: Learner | None = None,
) -> Agent | Result:
    """Assembles the job and trains it, or goes on with what is in the folder, or from the state of a learner."""
    for name in ("eval_every", "video_every"):
        if getattr(options, name) is not None and is_made(options.env):
            raise ValueError(f"{name} needs env= as an id or a factory: it plays in an environment of its own")
    require_installed(options.log)
    folder = None if options.out is None else RunFolder(options.out)
    if folder is not None:
        folder.check(is_new=resumed is None)
    try:
        job = recipe.job(options)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # of settings that somebody changed
        if folder is None or resumed is None or isinstance(error, EnvironmentFailure):
            raise
        raise ValueError(f"{folder.config_file}: the run cannot be put together: {one_line(error)}") from error
    try:
        if learned is not None:
            try:
                job.learner.load_state_dict(learned.state_dict())
            except RuntimeError as error:
                raise ValueError(f"an agent goes on with its own networks: {one_line(error)}") from error
        check_looks(options, job)
        if ranks is not None:
            ranks.join(job.learner, job.source)
        is_first = ranks is None or ranks.is_first
        threads = options.threads
        if threads == "auto":
            threads = None if gains_from_threads(job.learner) else 1
        with torch_threads(threads), locked(folder.path) if folder and is_first else nullcontext():
            training = Training(recipe, job, options, folder, callback)
            if folder is not None and resumed is None:
                folder.create(record_of(recipe, options, job.source.fingerprint()))
            if resumed is not None:
                if resumed.fingerprint not in (None, job.source.fingerprint()):
                    changed = "the data have changed since the run began, and it goes on with the new ones"
                    warnings.warn(changed, stacklevel=3)
                has_new_length = options.steps != resumed.steps
                if ranks is not None:  # the first one may have written the new length before others read the old one
                    has_new_length = bool(ranks.from_first(has_new_length))
                with nullcontext() if ranks is None else ranks.after_first():
                    training.resume(needs_checkpoint=resumed.from_agent, has_new_length=has_new_length)
                    if has_new_length and folder is not None and is_first:
                        folder.lengthen(options.steps)
                if not is_first:  # it has read the checkpoint, and writes nothing
                    training.folder = None
            return training.go()
    finally:
        job.source.close()
