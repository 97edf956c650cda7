"""The options of the shell level, as tyro turns them into flags."""

from __future__ import annotations

import argparse
import ast
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

if TYPE_CHECKING:  # at run time they are imported where they are used: `agentlib --help` shall not wait for torch
    from agentlib.recipes import Recipe


NEEDED = {
    "env": ("ID", "CartPole-v1"),
    "steps": ("N", "50_000"),
    "data": ("NAME", "digits"),
    "demos": ("PATH", "demos.safetensors"),
    "expert": ("NAME", "scripted"),
}
"""What a learner may not do without, as its flags show it, and an example."""


NOT_HERE = ("ppo", "a2c", "sac", "td3", "ddpg", "trpo", "tqc")
"""What people ask for, and other libraries have."""


class UsageError(Exception):
    """The command line asks for something that cannot be."""


def _flag(metavar: str) -> Any:
    """How a flag without a default worth showing looks in the help."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


EnvId = Annotated[str | None, _flag("ID")]
EnvKwargs = Annotated[tuple[str, ...], _flag("NAME=VALUE ...")]
Number = Annotated[int | None, _flag("N")]
Folder = Annotated[Path | None, _flag("DIR")]
Agents = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|sb3:ZIP", help_behavior_hint="")]
File = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Progress = Annotated[Literal["bar", "table", "none"] | None, _flag("bar|table|none")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Learn(Options):
    """What `train` and `compare` take besides hyperparameters."""

    env: EnvId = None
    """The environment's id, such as CartPole-v1."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False."""
    steps: Number = None
    """Length of the whole run: environment steps, or updates where there is no environment."""
    zoo: Annotated[Path | None, _flag("FILE")] = None
    """Take the settings from this file of the RL Baselines3 Zoo (YAML) in place of the preset."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """Where the networks are: auto, cpu, cuda, cuda:1 ..."""


@dataclass(frozen=True, kw_only=True)
class Train(Learn):
    """Train, and keep the result in a folder (`agentlib train --resume DIR` goes on with a run)."""

    data: Annotated[str | None, _flag("NAME|PATH")] = None
    """The data to learn from; `agentlib list data` names those that come along."""
    demos: Annotated[str | None, _flag("FILE|minari:ID")] = None
    """The demonstrations to learn from: a file that `agentlib record` wrote, or a Minari dataset on this machine."""
    expert: Annotated[str | None, _flag("scripted|me|FILE|sb3:ZIP")] = None
    """The expert to ask: the environment's scripted one, yourself at this terminal, an agent, or SB3's model."""
    n_envs: int = 1
    """Environments stepped side by side."""
    seed: int = 0
    """Of everything random: the same seed gives the same run."""
    backbone: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """The network under the agent's head, a name of `agentlib list backbones` or a saved backbone's file."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products and convolutions in updates: bfloat16 is quicker for large ones, if the processor has it."""
    threads: Annotated[str, tyro.conf.arg(metavar="N|auto")] = "auto"
    """Of torch: a number, or auto, which takes one for small networks and torch's own number for large ones."""
    eval_every: Number = None
    """Evaluate every so many steps, and keep the best agent too."""
    out: Folder = None
    """The run's folder; by default runs/WHAT-ENV-1, or the next number that is free."""
    progress: Progress = None
    """How to report; by default a bar on a terminal, and elsewhere a table now and then."""


@dataclass(frozen=True, kw_only=True)
class Resume(Options):
    """Go on with a run that was stopped, with its own settings."""

    resume: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""
    env: EnvId = None
    """The environment's id, if the run does not name one."""
    progress: Progress = None
    """How to report; by default a bar on a terminal, and elsewhere a table now and then."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    """Play whole episodes with an agent, and print its return with a 95% interval."""

    file: Agents
    """The agent, such as runs/dqn-CartPole-v1-1/agent.safetensors."""
    env: Annotated[str, tyro.conf.arg(metavar="ID")]
    """The environment's id."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False."""
    episodes: int = 100
    """How many."""
    seed: int = 0
    """Of the episodes: two agents evaluated with one seed meet the same ones."""


@dataclass(frozen=True, kw_only=True)
class Compare(Learn):
    """Train our agent and Stable-Baselines3's with the same settings and seeds, and compare returns and times."""

    seeds: int = 5
    """How many seeds; each side trains once for each."""
    episodes: int = 100
    """Evaluation episodes of each final agent."""
    threads: Number = None
    """Torch threads for both sides; by default as many as torch takes."""
    strict: bool = True
    """Refuse options that Stable-Baselines3 lacks; otherwise they are noted as a difference."""
    out: Folder = None
    """Folder of the report and of both sides' agents; by default runs/compare-WHAT-ENV-1, or the next free number."""


@dataclass(frozen=True, kw_only=True)
class Record(Options):
    """Record episodes: as a film (.gif, .mp4), or as demonstrations to learn from (.safetensors, minari:ID)."""

    file: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="FILE|scripted|sb3:ZIP", help_behavior_hint="")
    ] = None
    """Who acts: an agent, such as runs/dqn-CartPole-v1-1/agent.safetensors, or the environment's scripted expert."""
    play: tyro.conf.FlagCreatePairsOff[bool] = False
    """Play yourself, turn by turn at this terminal; what you played is kept when you stop."""
    window: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --play: play in a window, which does not wait for you."""
    keys: Annotated[tuple[str, ...], _flag("KEY=ACTION ...")] = ()
    """With --play: what keys do, such as a=0 d=1; by default as the environment says, or digits."""
    env: Annotated[str, tyro.conf.arg(metavar="ID")]
    """The environment's id."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False."""
    episodes: int = 1
    """How many; of a film, they are those of `agentlib evaluate` with the same seed."""
    seed: int = 0
    """Of the episodes."""
    noise: float = 0.0
    """Of demonstrations: share of random actions in place of the actor's, while the labels stay the actor's."""
    out: Annotated[str | None, _flag("FILE")] = None
    """Where to; by default beside the agent, with its name, as .gif, and demos.safetensors for what you played."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Options):
    """Say what is inside a file of agentlib, without loading it: an agent, a backbone or a checkpoint."""

    file: File
    """The file, or the folder of a run."""


@dataclass(frozen=True, kw_only=True)
class List(Options):
    """Name the learners, backbones, environments and data sets that there are."""

    what: Annotated[
        tyro.conf.Positional[Literal["learners", "backbones", "envs", "data"] | None],
        _flag("[learners|backbones|envs|data]"),
    ] = None
    """What to list; everything without it."""


@dataclass(frozen=True)
class Choice:
    """A learner, and where its settings come from."""

    recipe: Recipe
    base: Any
    """The config before the command line changed it."""
    origin: str
    """Where `base` is from."""
    run: dict[str, Any] = field(default_factory=dict)
    """Defaults of options, from a file of the zoo."""
    notes: tuple[str, ...] = ()


def without_learner(kind: type[Learn], name: str, rest: list[str]) -> NoReturn:
    """`agentlib train --help`: what there is to train. There is nothing else to do without a learner."""
    from agentlib.recipes import RECIPES

    known = ", ".join(RECIPES)
    text = f"What to train, given first: {known}. `agentlib {name} WHAT --help` has its hyperparameters."
    what = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WHAT", help=text)]
    if {"-h", "--help"} & set(rest):
        tyro.cli(_extended(kind, "what", what), prog=f"agentlib {name}", args=["--help"])
    raise UsageError(f"say what to train first: agentlib {name} WHAT ...; there is {known}")


def _extended(kind: type[Learn], name: str, annotation: Any) -> Any:
    extended = make_dataclass(kind.__name__, [(name, annotation)], bases=(kind,), frozen=True, kw_only=True)
    extended.__doc__ = kind.__doc__
    return extended


def choose(what: str, rest: list[str]) -> Choice:
    """The learner, and the settings that its flags start from: a file's, the preset's, or the defaults."""
    from agentlib.recipes import RECIPES, close_matches, configure
    from agentlib.recipes.presets import preset_for

    if what.lower() in NOT_HERE:
        raise UsageError(f"{what} is not here; what Stable-Baselines3 trained becomes an agent by Agent.from_sb3")
    if what not in RECIPES:
        raise UsageError(f"unknown learner {what!r}{close_matches(what, list(RECIPES))}")
    recipe = RECIPES[what]
    scout = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--env", "--data", "--zoo"):
        scout.add_argument(flag)
    try:
        given, _ = scout.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if given.zoo is None:
        key = given.env or given.data
        preset = f"the preset for {key}" if key else "the preset"
        origin = preset if preset_for(what, key) else "the defaults"
        return Choice(recipe, configure(what, key, {}), origin)
    if given.env is None:
        raise UsageError("--zoo FILE needs --env ID, which selects the section")
    from agentlib.recipes.zoo import read_zoo

    settings = read_zoo(given.zoo, given.env, recipe)
    run = {
        "steps": settings.steps,
        "n_envs": settings.n_envs,
        "backbone": settings.backbone,
        "env_kwargs": tuple(f"{name}={value!r}" for name, value in settings.env_kwargs.items()),
    }
    origin = f"{given.zoo}, section {settings.section}"
    base = recipe.config(**preset_for(what, None) | settings.hyperparameters)
    return Choice(recipe, base, origin, run, settings.notes)


def with_hyperparameters(kind: type[Learn], choice: Choice, prog: str, rest: list[str]) -> Any:
    """The parsed options, with the config as their field `hyperparameter`."""
    config = Annotated[tyro.conf.OmitArgPrefixes[choice.recipe.config], tyro.conf.arg(help="")]  # type: ignore[name-defined]
    extended = _extended(kind, "hyperparameter", config)
    fields = {option.name for option in dataclasses.fields(extended)}
    if "n_envs" not in fields and choice.run.get("n_envs", 1) != 1:
        raise UsageError(f"{choice.origin}: n_envs is {choice.run['n_envs']}; a comparison has one environment")
    run = {name: value for name, value in choice.run.items() if name in fields}
    learner = f"{choice.recipe.name}: {choice.recipe.summary}. Its flags start from {choice.origin}."
    description = f"{kind.__doc__}\n\n{learner}"
    default = extended(hyperparameter=choice.base, **run)
    registry = _with_schedules()
    options = tyro.cli(extended, prog=prog, description=description, args=rest, default=default, registry=registry)
    recipe = choice.recipe
    endless = "env" in recipe.needs and recipe.steps is None and "steps" not in recipe.takes
    for name in (*recipe.needs, *(["steps"] if endless else [])):
        if getattr(options, name) is None:
            metavar, example = NEEDED[name]
            raise UsageError(f"{prog} needs --{name} {metavar}, such as --{name} {example}")
    return options


def _with_schedules() -> tyro.constructors.ConstructorRegistry:
    """What teaches tyro to read a schedule: a number, or lin_2.3e-3 as the zoo writes it."""
    from agentlib.backbones import Schedule
    from agentlib.recipes.zoo_file import schedule_from_text, schedule_to_text

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|lin_START[_END]",
        instance_from_str=lambda words: schedule_from_text(words[0]),
        is_instance=lambda value: callable(value) or isinstance(value, int | float),
        str_from_instance=lambda schedule: [schedule_to_text(schedule)],
    )
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: spec if info.type == Schedule else None)
    return registry


def threads_of(text: str) -> int | Literal["auto"]:
    """What `--threads` says."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--threads takes a number of at least 1, or auto, not {text!r}")
    return int(text)


def keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; a value that is no Python literal is a string."""
    keywords = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--env-kwargs takes NAME=VALUE, such as is_slippery=False, not {pair!r}")
        try:
            keywords[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            keywords[name] = text
    return keywords
