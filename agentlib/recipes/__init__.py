"""Assembly: a config and a problem become a `Job`. `agentlib.train`, `compare` and the shell know jobs only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentlib.backbones.names import close_matches as close_matches
from agentlib.learners import BCConfig, DAggerConfig, DQNConfig
from agentlib.recipes.imitation import build_bc, build_dagger
from agentlib.recipes.presets import preset_for, preset_steps
from agentlib.recipes.problem import Job, Problem, Reference, Result
from agentlib.recipes.q_learning import build_dqn
from agentlib.training.config import config_from_json

__all__ = ["RECIPES", "Job", "Problem", "Recipe", "Reference", "Result", "configure", "recipe_of", "steps_of"]


@dataclass(frozen=True)
class Recipe:
    """How one algorithm's run is put together."""

    name: str
    config: type[Any]
    build: Callable[..., Job]
    summary: str
    learns_from: str
    """In words, such as "an environment"."""
    needs: tuple[str, ...]
    """Which of `env`, `data`, `demos` and `expert` it cannot do without."""
    takes: tuple[str, ...] = ()
    """Which of them it can use besides; and `steps`, where a run in an environment knows its end without."""
    steps: int | None = None
    """How long a run is if neither the caller nor a preset says; None where the caller must."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "dqn",
            DQNConfig,
            build_dqn,
            "deep Q-learning (Mnih et al. 2015), discrete actions",
            learns_from="an environment",
            needs=("env",),
        ),
        Recipe(
            "rainbow",
            DQNConfig,
            build_dqn,
            "dqn with all its options on (Hessel et al. 2018)",
            learns_from="an environment",
            needs=("env",),
        ),
        Recipe(
            "bc",
            BCConfig,
            build_bc,
            "behavioural cloning (Pomerleau 1991), copies demonstrations; any actions",
            learns_from="demonstrations",
            needs=("demos",),
            takes=("env",),
        ),
        Recipe(
            "dagger",
            DAggerConfig,
            build_dagger,
            "DAgger (Ross et al. 2011), asks an expert about its own states; any actions",
            learns_from="an expert, in an environment",
            needs=("env", "expert"),
            takes=("demos", "steps"),
        ),
    )
}


def recipe_of(what: Any) -> Recipe:
    """The recipe for a name or a config.

    Raises:
        ValueError: unknown name (the message names close ones), or not a config of ours.
    """
    if isinstance(what, str):
        if what in RECIPES:
            return RECIPES[what]
        raise ValueError(f"unknown learner {what!r}{close_matches(what, list(RECIPES))}")
    for recipe in RECIPES.values():
        if type(what) is recipe.config:
            return recipe
    raise ValueError(
        f"what to train is a name ({', '.join(RECIPES)}) or a config such as DQNConfig(...), not {type(what).__name__}"
    )


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
            raise ValueError(f"{recipe.name} has no hyperparameter {name!r}{close_matches(name, fields)}")
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
