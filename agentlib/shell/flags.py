"""Flags that commands share, without what they lead to: a mistake on the command line need not wait for torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from agentlib.shell.stopping import UsageError

WIDTH = 100


def flag(metavar: str) -> Any:
    """How a flag without a default worth showing looks in the help."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Progress = Annotated[Literal["bar", "table", "none"] | None, flag("bar|table|none")]
MaxSteps = Annotated[int | None, flag("N")]
EnvId = Annotated[str | None, flag("ID")]
EnvKwargs = Annotated[tuple[str, ...], flag("NAME=VALUE ...")]
Best = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The common options of all commands."""

    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Watched(Options):
    """The common options of commands that may take long."""

    progress: Progress = None
    """How to report progress; the default is a bar on a terminal, and nothing elsewhere."""


def progress_of(asked: str | None, elsewhere: str = "none") -> Any:
    """`--progress` as `progress=` takes it; by default a bar on a terminal."""
    return {"bar": True, "table": "table", "none": False}[asked or ("bar" if sys.stderr.isatty() else elsewhere)]


def whole_number(text: str) -> int:
    """A whole number, also as 2e4 or 20_000.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is no whole number")
    return int(number)


def whole_numbers() -> tyro.constructors.ConstructorRegistry:
    """Teaches tyro to read 2e4 as a whole number."""
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda number: [str(number)],
    )
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: spec if info.type is int else None)
    return registry


def keywords(pairs: Sequence[str], option: str = "--env-kwargs") -> dict[str, Any]:
    """`name=value` pairs; a value that is no Python literal is a string."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{option} takes NAME=VALUE, such as is_slippery=False, not {pair!r}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def count(number: int, noun: str) -> str:
    """Such as "1 step", "1,000 steps"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
