"""The shell level: `agentlib COMMAND ...`, each in a file of its own.

Flags and their help are made by tyro from the options of a run and from the algorithms' configs, so that a new
algorithm needs nothing here. A name such as "dqn" selects the preset for the environment, or the section of
`--zoo FILE`: these are the defaults of its flags, which `agentlib train dqn --env CartPole-v1 --help` shows.

Exit codes: 0 done, 1 an error (one line; `--debug` adds the traceback), 2 wrong usage, 130 stopped by Ctrl-C, 143
stopped by SIGTERM, as schedulers do it. A training run saves first; a second signal stops it at once.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import agentlib
from agentlib.core.names import close_matches
from agentlib.shell.memory import keep_memory
from agentlib.shell.stopping import Terminated, UsageError

COMMANDS = {
    "train": "Train a learner, and keep the result in a folder.",
    "evaluate": "Play whole episodes with an agent, and print its return with a 95% interval.",
    "compare": "Train our agent and Stable-Baselines3's with the same settings and seeds, and compare them.",
    "sweep": "Search hyperparameters, and compare the best ones to the usual ones on fresh seeds.",
    "stress": "Corrupt what a classifier or an agent sees, and print its accuracy or return for each corruption.",
    "scale": "Train models of language of several sizes and lengths, and fit scaling laws.",
    "compile": "Build what the updates of a run compile to, so that later runs start at once.",
    "record": "Record episodes: as a video, or as demonstrations to learn from.",
    "watch": "Watch an agent in a window, or without a screen in a film.",
    "ensemble": "Put several agents together to one that averages them, or lets them vote.",
    "predict": "Print what a trained model says of examples: classes, numbers or actions.",
    "sample": "Draw examples by a generative model that a run has left.",
    "push": "Publish an agent or a model on the Hugging Face Hub, with a card.",
    "plot": "Draw the learning curves of several runs in one picture.",
    "report": "Write one page about a run, or about several side by side.",
    "inspect": "Describe a file of agentlib without loading it.",
    "list": "Name the learners, presets, backbones, environments and data sets that there are.",
}
"""Each command is the function `run` of a file of its own."""

SPELLINGS = {
    r"resume='(\S+?)'": r"--resume \1",
    r"out=\.\.\.": "--out DIR",
    r"strict=False": "--no-strict",
    r"device='(\S+?)'": r"--device \1",
    r"\bsteps=(?=\d)": "--steps ",
    r"\bsteps= ": "--steps ",
    r"\benv=\.\.\.": "--env ID",
    r"agent='(\S+?)'": r"--agent \1",
}
"""How messages spell options for programs, and how a command line does."""


def program() -> int:
    """One command as a process of its own, with an allocator that suits it."""
    keep_memory()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _short_warnings():
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # tyro has printed help, or what is wrong; or an environment ended the program
        for note in getattr(stop, "__notes__", []):
            print(f"agentlib: stopped; {note}", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError as broken:  # `agentlib list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if arguments[:1] != ["train"]:
            return 0
        saved = getattr(broken, "saved_in", None)
        place = f"; what was learned so far is in {saved}" if saved else ""
        print(f"agentlib: stopped: the output is closed (--progress none trains on){place}", file=sys.stderr)
        return 141
    except (KeyboardInterrupt, Exception) as error:
        code, message = _failure(error)
        if "--debug" in arguments:
            traceback.print_exception(error)
        print(f"agentlib: {message}", file=sys.stderr)
        return code


def _run(arguments: list[str]) -> int:
    name, rest = (arguments or ["--help"])[0], arguments[1:]
    if name == "--version":
        print(f"agentlib {agentlib.__version__}")
        return 0
    if name in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}{close_matches(name, list(COMMANDS))}; agentlib --help lists them")
    if name in ("train", "compile", "compare", "sweep"):
        from agentlib.shell.mistakes import check_words

        check_words(name, rest)
    module = import_module("agentlib.shell.listing" if name == "list" else f"agentlib.shell.{name}")
    return int(module.run(rest))


def _help() -> str:
    rows = [textwrap.fill(f"  {name:<10}{text}", 100, subsequent_indent=" " * 12) for name, text in COMMANDS.items()]
    lines = [
        "usage: agentlib COMMAND ...",
        "",
        "Train agents for Gymnasium environments, and see how good they are.",
        "",
        *rows,
        "",
        "agentlib COMMAND --help shows a command's options; agentlib --version the version.",
    ]
    return "\n".join(lines)


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


def _failure(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what stopped a command."""
    notes = "; ".join(getattr(error, "__notes__", []))
    if isinstance(error, KeyboardInterrupt):
        code = 143 if isinstance(error, Terminated) else 130
        return code, "; ".join(filter(None, ("stopped", notes))).replace("stopped; at once", "stopped at once")
    if isinstance(error, UsageError):
        return 2, f"error: {error}"
    return 1, "; ".join(filter(None, (f"error: {_readable(error)}", notes)))


def _readable(error: BaseException) -> str:
    from gymnasium.error import Error

    from agentlib.core.names import printable

    text = printable(" ".join(str(error).split()))
    for python, shell in SPELLINGS.items():
        text = re.sub(python, shell, text)
    known: tuple[type[BaseException], ...] = (ValueError, OSError, ImportError, ArithmeticError, MemoryError, Error)
    if "torch" in sys.modules:
        from agentlib.envs.vector import EnvironmentFailure

        known = (*known, EnvironmentFailure)
    return text if text and isinstance(error, known) else f"{type(error).__name__}: {text} (--debug shows where)"
