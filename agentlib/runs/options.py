"""The options of a run, listed once: train's keywords, a run's record and the command line's flags come from here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.names import close_matches, shown
from agentlib.core.numbers import whole
from agentlib.core.recipe import Problem, Recipe, option
from agentlib.engine.loop import Compile, Precision
from agentlib.runs.callbacks import MOMENTS, by_moment
from agentlib.runs.folder import RunFolder
from agentlib.runs.logs import Progress
from agentlib.runs.trackers import TRACKERS, fits, names_in

ORIGINS = ("env", "data", "demos", "expert")
"""The sources that a run can learn from."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Problem):
    """All that `agentlib.train` takes beside the learner, its hyperparameters, `resume` and `callback`."""

    eval_every: int | None = option(
        None,
        "Evaluate every this many steps, after an update, and keep the best agent too.",
        flag=int | None,
        metavar="N",
    )
    video_every: int | None = option(
        None,
        "Film an evaluation episode every this many steps, and the untrained agent, into videos/ of the run's folder.",
        flag=int | None,
        metavar="N",
    )
    out: str | Path | None = option(
        None,
        "The run's folder; the default is runs/WHAT-ENV-1, or the next number that is free.",
        flag=str | None,
        metavar="DIR",
    )
    progress: Progress = option(
        True,
        "How to report progress; the default is a bar on a terminal, and elsewhere a table every few seconds.",
        flag=Literal["bar", "table", "none"] | None,
        metavar="bar|table|none",
    )
    log: Any = option(
        ("tensorboard",),
        "Where numbers go: tensorboard and csv, in the run's folder, and wandb, trackio and mlflow.",
        flag=tuple[Literal["tensorboard", "csv", "wandb", "trackio", "mlflow"], ...],
    )
    compile: Compile = option(
        "auto", 'Compile updates: True, False, "try", "auto" for long runs, or "eager"; see `run`.'
    )
    precision: Precision = option(
        "float32",
        "Precision of matrix products and convolutions in updates; bfloat16 is faster for large ones where the "
        "processor supports it.",
        flag=Precision,
    )
    threads: int | Literal["auto"] | None = option(
        None,
        "Number of torch's threads, or auto: one for small networks, torch's own number for large ones.",
        flag=str,
        metavar="N|auto",
    )

    def __post_init__(self) -> None:
        """Raises ValueError, naming the option, if a value is none that it takes; whole numbers become Python's."""
        for name, (low, below) in WHOLE.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, low, below))
        for name in FITS:
            check(name, getattr(self, name, None))
        if isinstance(self.threads, np.integer):
            object.__setattr__(self, "threads", int(self.threads))
        if isinstance(self.agent, str | Path):
            object.__setattr__(self, "agent", Agent.load(self.agent))


def check(name: str, value: Any) -> None:
    """Raises ValueError if an option of `train` is given what it cannot take; None is always its default."""
    fits, wanted = FITS[name]
    if value is not None and not fits(value):
        raise ValueError(f"{name} must be {wanted}, not {shown(value)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _is_given(value: Any) -> bool:
    return not isinstance(value, str) or bool(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path) and str(value) != ""


def _is_device(value: Any) -> bool:
    if isinstance(value, str) and value != "auto":
        try:
            torch.device(value)
        except RuntimeError:
            return False
    return isinstance(value, str | torch.device)


def _is_one_of(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value in names)


def _is_backbone(value: Any) -> bool:
    return _is_path(value) or isinstance(value, Mapping | nn.Module)


MOST_ENVS, MOST_THREADS = 10_000, 1_024
"""Environments and threads of one run: more is a mistake, in a call or in a file, that takes long and much memory."""

WHOLE: dict[str, tuple[int, float]] = {
    "n_envs": (1, MOST_ENVS + 1),
    "actors": (1, MOST_ENVS + 1),
    "max_steps": (1, math.inf),
    "steps": (1, math.inf),
    "seed": (0, 2**32),
    "eval_every": (1, math.inf),
    "video_every": (1, math.inf),
    "n_eval_episodes": (1, math.inf),
}
"""Options that are whole numbers: the least, and a number that they stay below."""
FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "env": (_is_given, "an environment's id such as CartPole-v1, an environment, or a function that makes one"),
    "env_kwargs": (lambda value: isinstance(value, Mapping), "a dictionary of the environment's arguments"),
    "data": (_is_given, "a name of `agentlib list data`, a path, hf:owner/name, or the data"),
    "demos": (_is_given, "a path, minari:ID, or the demonstrations"),
    "expert": (_is_given, "a name such as scripted, a path, or the expert"),
    "agent": (
        lambda value: isinstance(value, Agent) or _is_path(value),
        "an Agent, its file, or the folder of its run",
    ),
    "backbone": (_is_backbone, "a name of `agentlib list backbones`, a file, a spec, or a module with a feature_dim"),
    "device": (_is_device, "auto, cpu, cuda, cuda:1 ..., or a torch.device"),
    "out": (_is_path, "the path of a folder"),
    "resume": (_is_path, "the path of a run's folder"),
    "callback": (
        lambda value: by_moment(value) is not None,
        f"a function of the clock and the metrics, several of them, or those of moments by name: {', '.join(MOMENTS)}",
    ),
    "progress": (partial(_is_one_of, names=("table",)), 'True (a bar), "table" or False'),
    "log": (fits, f"among {', '.join(TRACKERS)}, an object with a method log(metrics, step), or several of these"),
    "compile": (partial(_is_one_of, names=("auto", "try", "eager")), 'True, False, "auto", "try" or "eager"'),
    "precision": (lambda value: value in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "threads": (
        lambda value: value == "auto" or (_is_count(value) and value <= MOST_THREADS),
        f'a whole number from 1 to {MOST_THREADS:,}, "auto" or None',
    ),
}
"""What `train` can be given, by the option's name: a test of it, and what it must be, in words."""


UNRECORDED = ("agent", "config", "out", "progress", "log")
RECORDED = [f.name for f in dataclasses.fields(RunOptions) if f.name not in UNRECORDED]
_HINTS = get_type_hints(RunOptions) | dict.fromkeys(ORIGINS, str | None)
_HINTS |= {"backbone": str | dict[str, Any] | None, "device": str}  # types that a file holds
_Recorded: Any = dataclasses.make_dataclass("_Recorded", [(name, _HINTS[name]) for name in RECORDED], frozen=True)


@dataclass(frozen=True, kw_only=True)
class Record(_Recorded):  # type: ignore[misc]
    """The content of `config.json` about a run, checked field by field."""

    what: str
    config: dict[str, Any]
    objects: tuple[str, ...]
    """Options that were given as objects, which the file cannot hold."""
    has_own_recipe: bool
    """Whether the recipe was the user's own."""
    from_agent: bool
    fingerprint: str | None
    """Of the data, as `Source.fingerprint` has it."""
    log: tuple[str, ...] = ("tensorboard",)
    """Names of trackers; one that was given as an object may be given again."""


def record_of(recipe: Recipe, options: RunOptions, fingerprint: str | None = None) -> dict[str, Any]:
    """The facts that `resume` needs, as JSON. Objects that were given have to be given again."""
    values: dict[str, Any] = {name: getattr(options, name) for name in RECORDED}
    objects = [name for name in ORIGINS if not isinstance(values[name], str | Path | None)]
    if isinstance(options.backbone, Mapping):
        values["backbone"] = dict(options.backbone)
    elif not isinstance(options.backbone, str | Path):
        objects.append("backbone")
    paths = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    return {
        "what": recipe.name,
        "config": config_to_json(options.config),
        **values,
        **paths,
        **dict.fromkeys(objects),
        "device": str(options.device),
        "objects": objects,
        "has_own_recipe": recipe.name not in LEARNERS or recipe_of(recipe.name) is not recipe,
        "from_agent": options.agent is not None,
        "fingerprint": fingerprint,
        "log": names_in(options.log),
    }


def read_record(folder: RunFolder, what: Any = None) -> tuple[Record, Recipe, RunOptions]:
    """What a run's folder says of it: the record, the recipe, and the options with the config.

    Where the recipe was the user's own, `what` is it, as `agentlib.catalog.recipe_of` takes it: no module is imported
    because a file names it.

    Raises:
        FileNotFoundError: no run in this folder.
        ValueError: the file is damaged, or of another version; the message names the field.
    """
    content = folder.record()
    try:
        fields = [field.name for field in dataclasses.fields(Record)]
        record = config_from_json(Record, {name: content[name] for name in fields if name in content})
        if record.steps is not None and not _is_count(record.steps):
            raise ValueError(f"steps is the length of the run, a whole number from 1, not {shown(record.steps)}")
        if record.has_own_recipe and what is None:
            name = shown(record.what)
            raise ValueError(f"the run was of a recipe of your own, {name}: give it as the first argument")
        if not record.has_own_recipe and record.what not in LEARNERS:
            raise ValueError(f"unknown learner {shown(record.what)}{close_matches(record.what, LEARNERS)}")
        unknown = set(record.objects) - {*ORIGINS, "backbone"}
        if unknown:
            raise ValueError(f"objects names {shown(min(unknown))}, which is no option of a run")
        recipe = recipe_of(record.what if what is None else what)
        if recipe.name != record.what:
            raise ValueError(f"the run was of {shown(record.what)}, and not of {recipe.name}")
        config = config_from_json(recipe.config, record.config)
        recorded = {name: getattr(record, name) for name in RECORDED}
        return record, recipe, RunOptions(**recorded, config=config, out=folder.path, log=record.log)
    except ValueError as error:
        raise ValueError(f"{folder.config_file}: {error}") from None
