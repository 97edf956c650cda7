"""`agentlib train`: a run in a folder, new or resumed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import tyro

import agentlib
from agentlib.core.names import printable
from agentlib.core.recipe import Recipe
from agentlib.experience.evaluation import own_environment
from agentlib.runs.folder import RunFolder
from agentlib.runs.options import ORIGINS, RunOptions, read_record
from agentlib.runs.plan import plan
from agentlib.shell.flags import Options, Progress, count, flag, keywords, progress_of, whole_numbers
from agentlib.shell.options import (
    Choice,
    choose,
    flag_field,
    folder_for,
    parsed,
    print_settings,
    run_flags,
    threads_of,
    without_learner,
)
from agentlib.shell.predict import transform_of
from agentlib.shell.screens import draw_in_memory
from agentlib.shell.stopping import UsageError, saving_on_sigterm

SUMMARY = "Train, and keep the result in a folder (`agentlib train --resume DIR` goes on with a run)."
NAMES = [field.name for field in dataclasses.fields(RunOptions)]
SWITCH = tyro.conf.FlagCreatePairsOff[bool]
SIZE = "Scale the images of a folder to this height and width: --image-size 32, or 32x48."
SWITCHES = {
    "compile": "Compile updates; the default does so in runs of 20,000 updates or more, of large networks 5,000.",
    "no_compile": "Do not compile updates.",
    "verbose": "Print all hyperparameters, by where they come from.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Options):
    """Go on with a run that was stopped, with its own settings, or make it longer."""

    resume: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""
    steps: Annotated[int | None, flag("N")] = None
    """A new length of the whole run: it goes on with its replay memory, and schedules stretch over the new length."""
    env: Annotated[str | None, flag("ID")] = None
    """The environment's id, if the run does not name one."""
    progress: Progress = None
    """How to report progress; the default is a bar on a terminal, and elsewhere a table every few seconds."""


IS_FIRST = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"
"""Of the processes that torchrun has started, one prints."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    with nullcontext() if IS_FIRST else redirect_stdout(io.StringIO()):
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    what = None if not arguments or arguments[0].startswith("-") else arguments[0]
    rest = arguments if what is None else arguments[1:]
    if "--resume" in {argument.split("=")[0] for argument in rest}:
        return _resume(what, tyro.cli(Resume, prog="agentlib train", args=rest, registry=whole_numbers()))
    defaults: dict[str, Any] = {"threads": "auto", "progress": None}
    if what is None:
        resume = flag_field("resume", Path | None, None, "Go on with the run of this folder, without WHAT.", "DIR")
        without_learner("train", SUMMARY, [*run_flags(NAMES, **defaults), *switches(), resume], rest)
    choice = choose(what, rest)
    fields = run_flags([name for name in NAMES if is_taken(name, choice.recipe)], **defaults) + switches()
    if is_taken("data", choice.recipe):
        fields.append(flag_field("image_size", str | None, None, SIZE, "SIZE"))
    return _train(parsed(choice, "train", what, SUMMARY, fields, rest), choice)


def switches() -> list[Any]:
    """Fields of the flags that are on or off."""
    return [flag_field(name, SWITCH, False, help) for name, help in SWITCHES.items()]


def is_taken(name: str, recipe: Recipe) -> bool:
    """Whether an option means something for a learner."""
    family = recipe.family
    origins = (*family.needs, *family.takes)
    if name == "agent":
        return family.makes_agent
    if name == "actors":
        return family.has_actors
    if name in ORIGINS:
        return name in origins
    return "env" in origins or name not in ("n_envs", "env_kwargs", "video_every")


def _train(options: Any, choice: Choice) -> int:
    if options.compile and options.no_compile:
        raise UsageError("--compile and --no-compile exclude each other")
    given = {name: getattr(options, name) for name in NAMES if hasattr(options, name)}
    given["compile"] = True if options.compile else False if options.no_compile else "auto"
    given["progress"] = progress_of(options.progress, "table")
    given |= {"env_kwargs": keywords(given.get("env_kwargs", ())), "threads": threads_of(options.threads)}
    if getattr(options, "image_size", None):
        given["data"] = f"{given['data']}#{options.image_size}"
    config = options.hyperparameter
    planned = plan(choice.recipe, RunOptions(**given), vars(config))
    steps, several = planned.steps, f"{planned.n_envs} environments, " if planned.n_envs > 1 else ""
    subject = next((str(given[name]) for name in ("env", "data", "demos") if given.get(name)), "")
    length = f"{count(steps, 'step')}, " if steps is not None else ""
    asked = None if options.out is None else Path(options.out)
    place = folder_for(f"{choice.recipe.name}-{subject}", asked) if IS_FIRST else nullcontext(asked or Path("."))
    with place as folder:
        title = f"{choice.recipe.name} on {subject}: {length}{several}seed {options.seed}"
        print_settings(title, config, choice, options.verbose)
        return _learn(folder, choice.recipe, {**given, **vars(config), "steps": steps, "out": folder})


def _resume(what: str | None, options: Resume) -> int:
    folder = RunFolder(options.resume)
    own = None if what is None else choose(what, []).recipe
    record, _, recorded = read_record(folder, own)
    env = options.env or recorded.env
    last = folder.checkpoints()
    step, steps = int(last[-1].stem.removeprefix("step_")) if last else 0, options.steps or recorded.steps
    subject = env or recorded.data or recorded.demos
    total = f" of {steps:,}" if steps is not None else ""
    state = f"going on at step {step:,}{total}"
    if folder.results_file.exists() and options.steps is None:
        state = f"stopped at step {step:,}{total}"
        if steps is None or step >= steps:
            longer = f" (--steps N makes it longer, such as {2 * step})" if steps is not None else ""
            state = f"has finished its {count(steps or step, 'step')}{longer}"
    print(printable(f"{record.what} on {subject}, in {options.resume}: {state}") + "\n", flush=True)
    arguments = {"resume": options.resume, "env": options.env, "steps": options.steps}
    return _learn(options.resume, own, arguments | {"progress": progress_of(options.progress, "table")})


def _learn(folder: Path, what: Any, arguments: dict[str, Any]) -> int:
    latest: dict[str, float] = {}
    if arguments.get("video_every") is not None:
        draw_in_memory()
    arguments["data_parallel"] = "TORCHELASTIC_RUN_ID" in os.environ
    try:
        with saving_on_sigterm():
            product = agentlib.train(what, callback=lambda clock, now: latest.update(now), **arguments)
    except KeyboardInterrupt as stop:
        if getattr(stop, "__notes__", None):
            stop.add_note(f"to go on: agentlib train --resume {folder}")
        raise
    if isinstance(product, agentlib.Agent):
        _print_agent(folder, product, latest or _numbers(folder))
        return 0
    print(f"\n{product}")
    for picture in product.pictures:
        print(f"picture: {folder / picture.name}")
    quoted = shlex.quote(folder.as_posix())
    model, backbone = folder / "model.safetensors", folder / "backbone.safetensors"
    if product.agent is not None:
        print(f"The model is in {folder / 'agent.safetensors'}: agentlib predict {quoted} INPUT, or Agent.load(path)")
    elif model.is_file():
        draws = hasattr(product.model, "sample") or hasattr(product.model, "generate")
        uses = [f"agentlib sample {quoted}"] if draws else []
        if transform_of(product.model) is not None:
            uses.append(f"agentlib predict {quoted} INPUT --out FILE.npz")
        print(f"The model is in {model}: {', or '.join([*uses, 'agentlib.runs.models.load_model(path)'])}")
    print(f"The run is in {folder}; its report is {folder / 'report.html'}")
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


def _print_agent(folder: Path, agent: agentlib.Agent, metrics: dict[str, float]) -> None:
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
    try:
        own_environment(agent.about)
        where = ""
    except ValueError:
        where = " --env ID"
    print(f"How good it is: agentlib evaluate {shlex.quote(folder.as_posix())}{where}")
