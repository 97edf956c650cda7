"""Assembly: a config and a problem become a `Job`. `agentlib.train`, `compare` and the shell know jobs only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from agentlib.backbones.names import close_matches as close_matches
from agentlib.backbones.names import shown
from agentlib.recipes import (
    decision_transformer,
    diffusion_bc,
    generative,
    imitation,
    meta,
    q_learning,
    recurrent,
    robustness,
    self_supervised,
    supervised,
)
from agentlib.recipes.presets import preset_for, preset_steps
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, Result
from agentlib.training.config import config_from_json

__all__ = ["RECIPES", "Job", "Problem", "Recipe", "Reference", "Result", "configure", "recipe_of", "steps_of"]


FAMILIES = (
    q_learning,
    recurrent,
    imitation,
    decision_transformer,
    diffusion_bc,
    supervised,
    robustness,
    generative,
    self_supervised,
    meta,
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for family in FAMILIES for recipe in family.RECIPES}
"""What can be trained, by name: a family's recipes are in its file."""


def recipe_of(what: Any) -> Recipe:
    """The recipe for a name or a config.

    Raises:
        ValueError: unknown name (the message names close ones), or not a config of ours.
    """
    if isinstance(what, str):
        if what in RECIPES:
            return RECIPES[what]
        raise ValueError(f"unknown learner {shown(what)}{close_matches(what, list(RECIPES))}")
    for recipe in RECIPES.values():
        if type(what) is recipe.config:
            return recipe
    raise ValueError(
        f"what to train is a name ({', '.join(RECIPES)}) or a config such as DQNConfig(...), not {type(what).__name__}"
    )


ARGUMENTS = ("n_envs", "env_kwargs", "steps", "seed", "backbone", "eval_every", "callback", "progress", "device")
"""What `agentlib.train` takes besides hyperparameters, for messages about misspelt names."""
HERE = {
    "total_timesteps": "steps",
    "policy_kwargs": "net_arch, or backbone",
    "verbose": "progress",
    "progress_bar": "progress",
    "tensorboard_log": "out",
    "policy": "backbone",
}
"""What SB3's arguments are called here."""


def steps_of(what: Any, problem: Problem) -> int | None:
    """How long a run is: as the caller says, else the preset that a name selects, else the recipe."""
    recipe = recipe_of(what)
    preset = preset_steps(recipe.name, problem.key) if isinstance(what, str) else None
    return next((steps for steps in (problem.steps, preset, recipe.steps) if steps is not None), None)


def configure(what: Any, key: str | None, hyperparameters: Mapping[str, Any]) -> Any:
    """The config of a run: a name selects the preset for a known environment or data set, a config is taken literally.

    Raises:
        ValueError: a hyperparameter that the config does not have (the message names close ones), or a value of the
            wrong type.
    """
    recipe = recipe_of(what)
    fields = [field.name for field in dataclasses.fields(recipe.config)]
    for name in hyperparameters:
        if name not in fields:
            hint = f"; here it is {HERE[name]}" if name in HERE else close_matches(name, [*fields, *ARGUMENTS])
            raise ValueError(f"{recipe.name} has no hyperparameter {name!r}{hint}")
    if isinstance(what, str):
        return _typed(recipe.config(**{**preset_for(recipe.name, key), **hyperparameters}))
    return _typed(dataclasses.replace(what, **hyperparameters))


def _typed(config: Any) -> Any:
    """The config with each field's type checked; numpy's numbers become Python's, lists become tuples."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
        if not callable(value)  # a schedule
    }
    checked = config_from_json(type(config), plain)
    return dataclasses.replace(config, **{name: getattr(checked, name) for name in plain})
