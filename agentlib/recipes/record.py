"""What a run's folder and an agent's file say of how they came about."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentlib.recipes import recipe_of
from agentlib.recipes.folder import RunFolder
from agentlib.recipes.problem import Problem, Recipe
from agentlib.training.config import config_from_json, config_to_json
from agentlib.training.loop import Compile, Precision

ORIGINS = ("env", "data", "demos", "expert")
"""What a run learns from; which of them, its recipe says."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `record_of` told, checked field by field. The later fields are not in the records of earlier versions."""

    what: str
    config: dict[str, Any]
    env: str | None
    data: str | None
    demos: str | None
    expert: str | None
    n_envs: int
    env_kwargs: dict[str, Any] | None
    steps: int | None
    seed: int
    backbone: str | dict[str, Any] | None
    device: str
    eval_every: int | None
    objects: tuple[str, ...] = ()
    compile: Compile = "auto"
    precision: Precision = "float32"
    threads: int | Literal["auto"] | None = None
    from_agent: bool = False


def read_record(folder: RunFolder) -> tuple[Record, Recipe, Any]:
    """What a run's folder says of it, the recipe and the config.

    Raises:
        FileNotFoundError: no run in this folder.
        ValueError: the file is damaged, or of another version; the message names the field.
    """
    told, names = folder.record(), {field.name for field in dataclasses.fields(Record)}
    try:
        record = config_from_json(Record, {name: value for name, value in told.items() if name in names})
        recipe = recipe_of(record.what)
        return record, recipe, config_from_json(recipe.config, record.config)
    except ValueError as error:
        raise ValueError(f"{folder.config_file}: {error}") from None


def record_of(
    recipe: Recipe,
    config: Any,
    problem: Problem,
    backbone: Any,
    device: Any,
    seed: int,
    eval_every: int | None,
    compile: Compile,
    precision: Precision,
    threads: int | str | None,
) -> dict[str, Any]:
    """What `resume` needs to know, as JSON. What was given as an object is null there, and has to be given again."""
    origins = {name: getattr(problem, name) for name in ORIGINS}
    return {
        "what": recipe.name,
        "config": config_to_json(config),
        **{name: str(value) if isinstance(value, str | Path) else None for name, value in origins.items()},
        "objects": [name for name, value in origins.items() if value is not None and not isinstance(value, str | Path)],
        "n_envs": problem.n_envs,
        "env_kwargs": problem.env_kwargs,
        "steps": problem.steps,
        "seed": seed,
        "backbone": _recorded(backbone),
        "device": str(device),
        "eval_every": eval_every,
        "compile": compile,
        "precision": precision,
        "threads": threads,
        "from_agent": problem.agent is not None,
    }


def _recorded(backbone: Any) -> Any:
    if isinstance(backbone, Mapping):
        return dict(backbone)
    return str(backbone) if isinstance(backbone, str | Path) else None


def about_of(recipe: Recipe, problem: Problem, seed: int) -> dict[str, Any]:
    """What an agent's file says of how it was trained."""
    about: dict[str, Any] = {"learner": recipe.name, "trained_on": problem.key, "steps": problem.steps, "seed": seed}
    if problem.env_kwargs:
        about["env_kwargs"] = json.loads(json.dumps(problem.env_kwargs, default=repr))
    return about
