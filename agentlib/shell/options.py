"""Flags of the command line: from the options of a run, and from a learner's config."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import tyro

from agentlib.catalog import LEARNERS, recipe_of, unknown
from agentlib.core.recipe import Recipe
from agentlib.core.schedules import Schedule, schedule_from_text, schedule_to_text
from agentlib.runs.options import RunOptions
from agentlib.runs.plan import settings_of
from agentlib.shell.flags import WIDTH, Options, whole_numbers
from agentlib.shell.stopping import UsageError

NEEDED = {
    "env": "--env ID, such as --env CartPole-v1",
    "data": "--data NAME, such as --data digits",
    "demos": "--demos PATH, such as --demos demos.safetensors",
    "expert": "--expert NAME, such as --expert scripted",
}
"""How options that a command cannot do without are given."""


class Choice(NamedTuple):
    """A learner, and where its settings come from."""

    recipe: Recipe
    base: Any
    """The config before the command line changed it."""
    origin: str
    """Where `base` is from."""
    run: dict[str, Any]
    """Defaults of options, from a file of the zoo."""
    notes: tuple[str, ...] = ()
    preset: str = ""
    """What else the settings may start from, in words, where nothing is given that selects it."""


def run_flags(names: Sequence[str], **defaults: Any) -> list[Any]:
    """Fields of a dataclass of flags, made from these options of a run."""
    fields = []
    for field in dataclasses.fields(RunOptions):
        kind, help, metavar = (field.metadata[key] for key in ("flag", "help", "metavar"))
        if field.name in names and kind is not None:
            default = () if field.name == "env_kwargs" else defaults.get(field.name, field.default)
            fields.append(flag_field(field.name, kind, default, help, metavar))
    if "env" in names:
        help = "Take the settings from this file of the RL Baselines3 Zoo (YAML) in place of the preset."
        fields.append(flag_field("zoo", Path | None, None, help, "FILE"))
    return fields


def flag_field(name: str, kind: Any, default: Any, help: str, metavar: str = "") -> tuple[str, Any, Any]:
    """A field of a dataclass of flags; its help shows no default where that is nothing."""
    hint: Any = {"help_behavior_hint": ""} if default in (None, ()) else {}
    argument = tyro.conf.arg(help=help, metavar=metavar or None, **hint)
    return name, Annotated[kind, argument], dataclasses.field(default=default)


def without_learner(
    command: str, summary: str, fields: list[Any], rest: list[str], learners: Iterable[str] = LEARNERS
) -> NoReturn:
    """`agentlib train --help`: the learners that there are. There is nothing else to do without one."""
    known = ", ".join(learners)
    if {"-h", "--help"} & set(rest):
        more = f"`agentlib {command} WHAT --help` shows its hyperparameters, with --env ID those of the preset for it."
        text = f"The learner, given first: {known}. {more}"
        what = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT", help=text)]
        kind = _dataclass([("what", what), *fields], summary)
        tyro.cli(kind, prog=f"agentlib {command}", args=["--help"])
    raise UsageError(f"say first what to {command}: agentlib {command} WHAT ...; there is {known}")


def _dataclass(fields: list[Any], summary: str) -> Any:
    kind = make_dataclass("Flags", fields, bases=(Options,), frozen=True, kw_only=True)
    kind.__doc__ = summary
    return kind


def choose(what: str, rest: list[str]) -> Choice:
    """The learner, and the settings that its flags start from: a file's, the preset's, or the defaults."""
    if ":" in what:
        sys.path.insert(0, "")  # a module in the folder where the command is given
    elif what not in LEARNERS:
        raise UsageError(unknown(what))
    recipe = recipe_of(what)
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--env", "--data", "--zoo"):
        scout.add_argument(name)
    try:
        given, _ = scout.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if given.zoo is None:
        usual = settings_of(recipe, given.env or given.data, {})
        return Choice(recipe, usual.config, usual.origin, {}, preset=_whose_preset(recipe, given.env or given.data))
    if given.env is None:
        raise UsageError("--zoo FILE needs --env ID, which selects the section")
    from agentlib.sb3.zoo import read_zoo

    settings = read_zoo(given.zoo, given.env, recipe)
    run = {name: getattr(settings, name) for name in ("steps", "n_envs", "backbone")}
    run["env_kwargs"] = tuple(f"{name}={value!r}" for name, value in settings.env_kwargs.items())
    base = settings_of(recipe, None, settings.hyperparameters).config
    return Choice(recipe, base, f"{given.zoo}, section {settings.section}", run, settings.notes)


def _whose_preset(recipe: Recipe, key: str | None) -> str:
    if key is not None or not set(recipe.presets) - {""}:
        return ""
    option = "--env ID" if "env" in recipe.family.needs else "--data NAME" if "data" in recipe.family.needs else ""
    return f"; with {option} from the preset for it, if there is one" if option else ""


def parsed(choice: Choice, command: str, what: str, summary: str, fields: list[Any], rest: list[str]) -> Any:
    """The options, with the config as their field `hyperparameter`."""
    recipe, prog = choice.recipe, f"agentlib {command} {what}"
    config = Annotated[tyro.conf.OmitArgPrefixes[recipe.config], tyro.conf.arg(help="")]  # type: ignore[name-defined]
    extended = _dataclass([*fields, ("hyperparameter", config)], summary)
    names = {field.name for field in dataclasses.fields(extended)}
    description = f"{summary}\n\n{recipe.name}: {recipe.summary}. Its flags start from {choice.origin}{choice.preset}."
    run = {name: value for name, value in choice.run.items() if name in names}
    options: Any = tyro.cli(
        extended,
        prog=prog,
        description=description,
        args=[re.sub("^--optimizer(?=$|=)", "--optimizer-name", word) for word in rest],
        default=extended(hyperparameter=choice.base, **run),
        registry=_with_schedules(),
    )
    for name in recipe.family.needs:
        if getattr(options, name, "") is None:
            raise UsageError(f"{prog} needs {NEEDED[name]}")
    return options


def _with_schedules() -> tyro.constructors.ConstructorRegistry:
    """Teaches tyro to read a schedule: a number, or lin_2.3e-3 as the zoo writes it."""
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|lin_START[_END]|cos_START[_END]",
        instance_from_str=lambda words: schedule_from_text(words[0]),
        is_instance=lambda value: callable(value) or isinstance(value, int | float),
        str_from_instance=lambda schedule: [schedule_to_text(schedule)],
    )
    registry = whole_numbers()
    registry.primitive_rule(lambda info: spec if info.type == Schedule else None)
    return registry


def threads_of(text: str) -> int | Literal["auto"]:
    """The value of `--threads`."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--threads takes a number of at least 1, or auto, not {text!r}")
    return int(text)


def print_settings(title: str, config: Any, choice: Choice, verbose: bool) -> None:
    """The run in one line; with `verbose`, all hyperparameters too, by where they come from."""
    usual = choice.recipe.config()
    rows: dict[str, list[str]] = {"given": [], choice.origin: [], "the defaults": []}
    for field in dataclasses.fields(config):
        value, base = getattr(config, field.name), getattr(choice.base, field.name)
        origin = choice.origin if base != getattr(usual, field.name) else "the defaults"
        rows["given" if value != base else origin].append(f"{field.name} {_text(value)}")
    given = f", {', '.join(rows['given'])}" if rows["given"] and not verbose else ""
    print(f"{title}{given} ({choice.origin}{'' if verbose else '; --verbose shows all'})")
    for origin, settings in rows.items():
        if settings and verbose:
            text = f"  {origin}: {', '.join(settings)}"
            print(textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False))
    for note in choice.notes:
        print(f"  note: {note}")
    print(flush=True)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "()"
    return schedule_to_text(value) if callable(value) else str(value)


@contextmanager
def folder_for(stem: str, asked: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or the first free one of runs/.

    That is made at once, so that runs started together do not share it, and taken away if nothing was written.
    """
    if asked is not None:
        yield asked
        return
    for number in itertools.count(1):
        folder = Path("runs") / f"{stem.replace('/', '-').replace(':', '-')}-{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    try:
        yield folder
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
