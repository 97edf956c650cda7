"""The shell level: `agentlib train | evaluate | compare | record | inspect | list`.

Flags and their help are made by tyro from the options below and from the algorithms' configs, so that a new algorithm
needs nothing here. A name such as "dqn" selects the preset for the environment, or the section of `--zoo FILE`: these
are the defaults of its flags, which `agentlib train dqn --env CartPole-v1 --help` shows.

Exit codes: 0 done, 1 an error (one line; `--debug` adds the traceback), 2 wrong usage, 130 stopped by Ctrl-C, 143
stopped by SIGTERM, as schedulers do it. A training run saves first; a second signal stops it at once.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import agentlib
from agentlib._options import (
    Choice,
    Compare,
    Evaluate,
    Inspect,
    Learn,
    List,
    Options,
    Record,
    Resume,
    Train,
    UsageError,
    choose,
    keywords,
    threads_of,
    with_hyperparameters,
    without_learner,
)

if TYPE_CHECKING:
    from agentlib.recipes.backbones import NamedBackbone

WIDTH = 100
COMPARABLE = ("dqn", "rainbow")
"""What Stable-Baselines3 has too; `rainbow` with the options that it lacks noted."""


SPELLINGS = {
    r"resume='(\S+?)'": r"--resume \1",
    r"out=\.\.\.": "--out DIR",
    r"strict=False": "--no-strict",
    r"device='(\S+?)'": r"--device \1",
}
"""What messages say to programs, and what a command line has for it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; what stops a run for Ctrl-C stops it for this, too."""


@contextmanager
def _saving_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is as good as Ctrl-C. Only a program's main thread may say so."""

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        with _short_warnings():
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # tyro has printed help, or what is wrong
        return int(stop.code or 0)
    except BrokenPipeError as broken:  # `agentlib list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if arguments[:1] != ["train"]:
            return 0
        message = "stopped: nobody reads what it prints any more (--progress none trains on)"
        print(f"agentlib: {message}{_kept(broken)}", file=sys.stderr)
        return 141
    except (KeyboardInterrupt, Exception) as error:
        code, message = _outcome(error)
        if debug:
            traceback.print_exception(error)
        print(f"agentlib: {message}", file=sys.stderr)
        return code


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Ours are one line, without the place in the code."""

    def show(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
        if "agentlib" in Path(filename).parts:
            print(f"agentlib: note: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, *where, **more)

    usual = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def _kept(error: BaseException) -> str:
    """What the error says of where a run was saved, if anything."""
    place = str(error).partition("what was learned so far is in ")[2]
    return f"; what was learned so far is in {place}" if place else ""


def _outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what stopped a command."""
    if isinstance(error, KeyboardInterrupt):
        code = 143 if isinstance(error, Terminated) else 130
        return code, "; ".join(filter(None, ("stopped", str(error)))).replace("stopped; at once", "stopped at once")
    if isinstance(error, UsageError):
        return 2, f"error: {error}"
    return 1, f"error: {_readable(error)}"


def _readable(error: BaseException) -> str:
    from gymnasium.error import Error

    from agentlib.envs.vector import EnvironmentFailure

    text = " ".join(str(error).split())
    for python, shell in SPELLINGS.items():
        text = re.sub(python, shell, text)
    if text and isinstance(error, ValueError | OSError | ImportError | ArithmeticError | MemoryError | Error):
        return text
    if isinstance(error, EnvironmentFailure):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"agentlib {agentlib.__version__}")
        return 0
    commands: dict[str, tuple[type[Options], Callable[..., int]]] = {
        "train": (Train, _train),
        "evaluate": (Evaluate, _evaluate),
        "compare": (Compare, _compare),
        "record": (Record, _record),
        "inspect": (Inspect, _inspect),
        "list": (List, _list),
    }
    name, rest = (arguments or ["--help"])[0], arguments[1:]
    if name not in commands:
        kinds: dict[str, Callable[..., Any]] = {command: kind for command, (kind, _) in commands.items()}
        description = "Train agents for Gymnasium environments, and see how good they are."
        try:
            tyro.extras.subcommand_cli_from_dict(kinds, prog="agentlib", description=description, args=[name])
        except SystemExit as stop:  # the help, or what commands there are
            return 2 if not arguments else int(stop.code or 0)
    kind, command = commands[name]
    if name == "train" and any(argument.split("=")[0] == "--resume" for argument in rest):
        return _resume(tyro.cli(Resume, prog="agentlib train", args=rest))
    if not issubclass(kind, Learn):
        return command(tyro.cli(kind, prog=f"agentlib {name}", args=rest))
    if not rest or rest[0].startswith("-"):
        without_learner(kind, name, rest)
    choice = choose(rest[0], rest[1:])
    if kind is Compare and choice.recipe.name not in COMPARABLE:
        raise UsageError(f"Stable-Baselines3 has no counterpart of {rest[0]}; there is {', '.join(COMPARABLE)}")
    return command(with_hyperparameters(kind, choice, f"agentlib {name} {rest[0]}", rest[1:]), choice)


def _train(options: Any, choice: Choice) -> int:
    from agentlib.recipes import Problem, steps_of

    config, name = options.hyperparameter, choice.recipe.name
    origins = {kind: getattr(options, kind) for kind in ("env", "data", "demos", "expert")}
    subject = options.env or options.data or options.demos
    steps = steps_of(name, Problem(steps=options.steps, **origins))
    folder = options.out or _new_folder(f"{name}-{subject}")
    length = f"{_count(steps, 'step')}, " if steps is not None else ""
    _print_settings(f"{name} on {subject}: {length}seed {options.seed}", config, choice)
    try:
        return _learn(
            folder,
            config,
            **origins,
            n_envs=options.n_envs,
            env_kwargs=keywords(options.env_kwargs),
            shown_kwargs=options.env_kwargs,
            steps=steps,
            seed=options.seed,
            backbone=options.backbone,
            device=options.device,
            precision=options.precision,
            threads=threads_of(options.threads),
            eval_every=options.eval_every,
            out=folder,
            progress=_progress(options.progress),
        )
    finally:
        _remove_if_unused(folder, options.out)


def _resume(options: Resume) -> int:
    from agentlib.recipes.folder import RunFolder
    from agentlib.recipes.record import read_record

    folder = RunFolder(options.resume)
    record, _, _ = read_record(folder)
    env = options.env or record.env
    last = folder.checkpoints()
    step = int(last[-1].stem.removeprefix("step_")) if last else 0
    subject = env or record.data or record.demos
    state = "finished already" if (options.resume / "results.json").exists() else f"going on at step {step:,}"
    total = f" of {record.steps:,}" if record.steps is not None else ""
    print(f"{record.what} on {subject}, in {options.resume}: {state}{total}\n", flush=True)
    shown = [f"{name}={value!r}" for name, value in (record.env_kwargs or {}).items()]
    return _learn(
        options.resume, resume=options.resume, env=env, shown_kwargs=shown, progress=_progress(options.progress)
    )


def _learn(folder: Path, *what: Any, env: str | None, shown_kwargs: Sequence[str] = (), **arguments: Any) -> int:
    latest: dict[str, float] = {}
    try:
        with _saving_on_sigterm():
            product = agentlib.train(*what, env=env, callback=lambda clock, now: latest.update(now), **arguments)
    except KeyboardInterrupt as stop:
        if not str(stop):
            raise
        raise type(stop)(f"{stop}; to go on: agentlib train --resume {folder}") from None
    if isinstance(product, agentlib.Agent):
        given = f" --env-kwargs {shlex.join(shown_kwargs)}" if shown_kwargs else ""
        _print_agent(folder, f"{env or 'ID'}{given}", latest)
    else:
        print(f"\n{product}")
        for picture in product.pictures:
            print(f"picture: {picture}")
        if product.agent is not None:
            print(f"The model is in {folder / 'agent.safetensors'}: Agent.load(path).act(x) predicts")
        print(f"The run is in {folder}")
        backbone = folder / "backbone.safetensors"
        if backbone.is_file():
            print(f"Another learner goes on with its network: --backbone {backbone}")
    return 0


def _evaluate(options: Evaluate) -> int:
    from agentlib.envs.making import make_env
    from agentlib.recipes.imitation import expert_of

    name = str(options.file)
    agent: Any = expert_of(name, options.env) if name.startswith("sb3:") else agentlib.Agent.load(options.file)
    env = make_env(options.env, env_kwargs=keywords(options.env_kwargs), training=False)
    try:
        print(agentlib.evaluate(agent, env, episodes=options.episodes, seed=options.seed))
    finally:
        env.close()
    return 0


def _compare(options: Any, choice: Choice) -> int:
    config, name = options.hyperparameter, choice.recipe.name
    folder = options.out or _new_folder(f"compare-{name}-{options.env}")
    length = f"{_count(options.steps, 'step')}, {_count(options.seeds, 'seed')}"
    title = f"{name} on {options.env}, ours and Stable-Baselines3's: {length}"
    _print_settings(title, config, choice)
    try:
        comparison = agentlib.compare(
            config,
            env=options.env,
            steps=options.steps,
            seeds=options.seeds,
            out=folder,
            env_kwargs=keywords(options.env_kwargs),
            episodes=options.episodes,
            threads=options.threads,
            device=options.device,
            strict=options.strict,
            progress=sys.stderr.isatty() or "lines",
        )
    finally:
        _remove_if_unused(folder, options.out)
    print(f"{comparison}\n\nReport: {folder / 'report.html'}")
    return 0


def _record(options: Record) -> int:
    from agentlib._recording import record

    print(record(options))
    return 0


def _inspect(options: Inspect) -> int:
    from agentlib._inspect import inspected

    print(inspected(options.file))
    return 0


def _list(options: List) -> int:
    from agentlib.data import DATASETS, TASKS
    from agentlib.recipes import RECIPES
    from agentlib.recipes.backbones import NAMED_BACKBONES

    if options.what in (None, "learners"):
        _print_table("learners", {recipe.name: recipe.summary for recipe in RECIPES.values()})
    if options.what in (None, "backbones"):
        _print_table("backbones", {name: _backbone_text(entry) for name, entry in NAMED_BACKBONES.items()})
    if options.what in (None, "envs"):
        _print_table("envs", _environments())
    if options.what in (None, "data"):
        known = {**DATASETS, **TASKS}
        _print_table("data", {name: (make.__doc__ or "").splitlines()[0] for name, make in known.items()})
    return 0


def _backbone_text(entry: NamedBackbone) -> str:
    example = f"{entry.parameters():,} parameters on {entry.example.dtype} {entry.example.shape}"
    return f"{entry.summary}. For {entry.takes}; {example}; {entry.reference}"


def _environments() -> dict[str, str]:
    """The newest version of each registered environment, by what it comes from."""
    import gymnasium

    newest = {env_id.rpartition("-v")[0]: env_id for env_id in gymnasium.registry}
    groups: dict[str, list[str]] = {"agentlib": []}
    for env_id in newest.values():
        entry = gymnasium.registry[env_id].entry_point
        if isinstance(entry, str):
            group = entry.removeprefix("gymnasium.envs.").split(":")[0].split(".")[0]
            groups.setdefault(group, []).append(env_id)
    known = {group: ", ".join(sorted(ids)) for group, ids in groups.items()}
    return known | {
        "atari": "ALE/Pong-v5 and others, with pip install 'agentlib[atari]'",
        "minigrid": "MiniGrid-Empty-5x5-v0 and others, with pip install 'agentlib[minigrid]'",
    }


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 2
    print(title)
    for name, text in rows.items():
        indent = " " * (width + 2)
        print(textwrap.fill(f"  {name:<{width}}{text}", WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def _print_settings(title: str, config: Any, choice: Choice) -> None:
    """All hyperparameters in one block, by where they come from."""
    usual = choice.recipe.config()
    rows: dict[str, list[str]] = {"given": [], choice.origin: [], "the defaults": []}
    for option in dataclasses.fields(config):
        value, base = getattr(config, option.name), getattr(choice.base, option.name)
        origin = choice.origin if base != getattr(usual, option.name) else "the defaults"
        rows["given" if value != base else origin].append(f"{option.name} {_text(value)}")
    print(title)
    for origin, settings in rows.items():
        if settings:
            text = f"  {origin}: {', '.join(settings)}"
            print(textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False))
    for note in choice.notes:
        print(f"  note: {note}")
    print(flush=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _text(value: Any) -> str:
    from agentlib.recipes.zoo_file import schedule_to_text

    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "()"
    return schedule_to_text(value) if callable(value) else str(value)


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
    print(f"How good it is: agentlib evaluate {path} --env {env}")


def _progress(asked: str | None) -> Any:
    asked = asked or ("bar" if sys.stderr.isatty() else "table")
    return {"bar": True, "table": "table", "none": False}[asked]


def _new_folder(stem: str) -> Path:
    """The first free folder of runs/; made at once, so that runs started together do not share it."""
    count = 1
    while True:
        folder = Path("runs") / f"{stem.replace('/', '-').replace(':', '-')}-{count}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            count += 1


def _remove_if_unused(folder: Path, asked: Path | None) -> None:
    """Takes away a folder that we made for a run that came to nothing."""
    if asked is None and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
