"""`agentlib train`: a run in a folder, new or resumed."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import agentlib
from agentlib.core.names import printable
from agentlib.core.recipe import Recipe
from agentlib.runs.folder import RunFolder
from agentlib.runs.options import ORIGINS, RunOptions, read_record
from agentlib.runs.plan import plan
from agentlib.shell.options import (
    Choice,
    Options,
    choose,
    count,
    flag,
    flag_field,
    folder_for,
    keywords,
    parsed,
    print_settings,
    run_flags,
    threads_of,
    without_learner,
)
from agentlib.shell.stopping import UsageError, saving_on_sigterm

SUMMARY = "Train, and keep the result in a folder (`agentlib train --resume DIR` goes on with a run)."
LENGTH = (
    "a run goes on to the length that it was given: leave out --steps; a new run goes on from its agent, in Python by "
    "agent=Agent.load(...)"
)
NAMES = [field.name for field in dataclasses.fields(RunOptions)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Options):
    """Go on with a run that was stopped, with its own settings."""

    resume: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""
    env: Annotated[str | None, flag("ID")] = None
    """The environment's id, if the run does not name one."""
    progress: Annotated[Literal["bar", "table", "none"] | None, flag("bar|table|none")] = None
    """How to report progress; the default is a bar on a terminal, and elsewhere a table every few seconds."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    what = None if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments if what is None else arguments[1:]
    names = {argument.split("=")[0] for argument in rest}
    if "--resume" in names:
        if "--steps" in names:
            raise UsageError(LENGTH)
        return _resume(what, tyro.cli(Resume, prog="agentlib train", args=rest))
    defaults: dict[str, Any] = {"threads": "auto", "progress": None}
    if what is None:
        resume = flag_field("resume", Path | None, None, "Go on with the run of this folder, without WHAT.", "DIR")
        without_learner("train", SUMMARY, [*run_flags(NAMES, **defaults), resume], rest)
    choice = choose(what, rest)
    fields = run_flags([name for name in NAMES if is_taken(name, choice.recipe)], **defaults)
    return _train(parsed(choice, "train", what, SUMMARY, fields, rest), choice)


def is_taken(name: str, recipe: Recipe) -> bool:
    """Whether an option means something for a learner."""
    family = recipe.family
    origins = (*family.needs, *family.takes)
    return name in origins if name in ORIGINS else "env" in origins or name not in ("n_envs", "env_kwargs")


def _train(options: Any, choice: Choice) -> int:
    given = {name: getattr(options, name) for name in NAMES if hasattr(options, name)}
    shown, given["progress"] = given.get("env_kwargs", ()), _progress(options.progress)
    given |= {"env_kwargs": keywords(shown), "threads": threads_of(options.threads)}
    config = options.hyperparameter
    steps = plan(choice.recipe, RunOptions(**given), vars(config)).steps
    subject = next((str(given[name]) for name in ("env", "data", "demos") if given.get(name)), "")
    length = f"{count(steps, 'step')}, " if steps is not None else ""
    asked = None if options.out is None else Path(options.out)
    with folder_for(f"{choice.recipe.name}-{subject}", asked) as folder:
        print_settings(f"{choice.recipe.name} on {subject}: {length}seed {options.seed}", config, choice)
        arguments = {**given, **vars(config), "steps": steps, "out": folder}
        return _learn(folder, choice.recipe, given.get("env"), shown, arguments)


def _resume(what: str | None, options: Resume) -> int:
    folder = RunFolder(options.resume)
    own = None if what is None else choose(what, []).recipe
    record, _, recorded = read_record(folder, own)
    env = options.env or recorded.env
    last = folder.checkpoints()
    step = int(last[-1].stem.removeprefix("step_")) if last else 0
    subject = env or recorded.data or recorded.demos
    total = f" of {recorded.steps:,}" if recorded.steps is not None else ""
    state = f"going on at step {step:,}{total}"
    if folder.results_file.exists():
        state = f"stopped at step {step:,}{total}"
        if recorded.steps is None or step >= recorded.steps:
            state = f"has finished its {count(recorded.steps or step, 'step')}"
    print(printable(f"{record.what} on {subject}, in {options.resume}: {state}") + "\n", flush=True)
    shown = [f"{name}={value!r}" for name, value in recorded.env_kwargs.items()]
    arguments = {"resume": options.resume, "env": options.env, "progress": _progress(options.progress)}
    return _learn(options.resume, own, env, shown, arguments)


def _learn(folder: Path, what: Any, env: str | None, shown_kwargs: Sequence[str], arguments: dict[str, Any]) -> int:
    latest: dict[str, float] = {}
    try:
        with saving_on_sigterm():
            product = agentlib.train(what, callback=lambda clock, now: latest.update(now), **arguments)
    except KeyboardInterrupt as stop:
        if getattr(stop, "__notes__", None):
            stop.add_note(f"to go on: agentlib train --resume {folder}")
        raise
    if isinstance(product, agentlib.Agent):
        given = f" --env-kwargs {shlex.join(shown_kwargs)}" if shown_kwargs else ""
        _print_agent(folder, printable(f"{env or 'ID'}{given}"), latest or _numbers(folder))
        return 0
    print(f"\n{product}")
    for picture in product.pictures:
        print(f"picture: {folder / picture.name}")
    if product.agent is not None:
        print(f"The model is in {folder / 'agent.safetensors'}: Agent.load(path).act(x) predicts")
    print(f"The run is in {folder}; its report is {folder / 'report.html'}")
    backbone = folder / "backbone.safetensors"
    if backbone.is_file():
        print(f"Another learner goes on with its network: --backbone {backbone}")
    return 0


def _numbers(folder: Path) -> dict[str, float]:
    """The last numbers of a run that has ended, from its results."""
    try:
        found = json.loads(RunFolder(folder).results_file.read_text(encoding="utf-8"))["metrics"]
        return {name: float(value) for name, value in found.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def _print_agent(folder: Path, env: str, metrics: dict[str, float]) -> None:
    """Where the agent is, and the lines that use it."""
    names = {"rollout/ep_rew_mean": "training, last episodes", "eval/mean_reward": "evaluation"}
    returns = [f"{metrics[name]:.4g} ({label})" for name, label in names.items() if name in metrics]
    path = folder / "agent.safetensors"
    print(f"\nMean return {', '.join(returns)}" if returns else "")
    print(f"The agent is in {path}. To use it:\n")
    print("    from agentlib import Agent")
    print(f'    agent = Agent.load("{path.as_posix()}")')
    print("    action = agent.act(observation)\n")
    print(f"The run is in {folder}; its report is {folder / 'report.html'}")
    print(f"How good it is: agentlib evaluate {path} --env {env}")


def _progress(asked: str | None) -> Any:
    asked = asked or ("bar" if sys.stderr.isatty() else "table")
    return {"bar": True, "table": "table", "none": False}[asked]
