"""The plan of a run: the only place where names, presets, configs and lengths are resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn

from agentlib.backbones import Backbone, RunningNorm, from_spec, load_backbone
from agentlib.backbones.choice import NAMED_BACKBONES
from agentlib.catalog import preset_key, recipe_of
from agentlib.core.config import config_from_json
from agentlib.core.names import close_matches
from agentlib.core.numbers import whole
from agentlib.core.recipe import Job, Problem, Recipe
from agentlib.envs.making import is_made

EXAMPLES = {
    "env": 'env="CartPole-v1"',
    "data": 'data="digits"',
    "demos": 'demos="minari:ID", or a path',
    "expert": 'expert="scripted", a function, an agent, or "me"',
}
"""How what is missing is given."""
HERE = {
    "total_timesteps": "steps",
    "policy_kwargs": "net_arch, or backbone",
    "verbose": "progress",
    "progress_bar": "progress",
    "tensorboard_log": "out",
    "policy": "backbone",
}
"""Our names for arguments of SB3."""


AnyProblem = TypeVar("AnyProblem", bound=Problem)


class Plan(NamedTuple):
    """A learner with all of its numbers."""

    recipe: Recipe
    config: Any
    steps: int | None
    """None: the config decides, such as by epochs."""
    origin: str
    """Where the numbers are from that were not given."""
    n_envs: int = 1
    """Environments side by side."""

    def fill(self, problem: AnyProblem) -> AnyProblem:
        """The problem with what was resolved."""
        return dataclasses.replace(problem, config=self.config, steps=self.steps, n_envs=self.n_envs)


def plan(what: Any, problem: Problem, hyperparameters: Mapping[str, Any]) -> Plan:
    """Resolves what is to be trained, from the fields of the config that were given.

    `what` is as `recipe_of` takes it. A name, or a recipe, selects the preset for a known environment or data set; a
    config is taken literally.

    Raises:
        ValueError: an unknown name, a hyperparameter that the config does not have or that has the wrong type, an
            origin that the learner cannot use or lacks, a length that is no whole number from 1, or layers that were
            asked for and have no place in the backbone that was given.
    """
    family = recipe_of(what).family
    if problem.agent is not None and not family.makes_agent:
        hint = "agent.backbone goes in as backbone="
        raise ValueError(f"{recipe_of(what).name} makes no agent, and cannot go on from one; {hint}")
    for name, example in EXAMPLES.items():
        given, subject = getattr(problem, name) is not None, f"{recipe_of(what).name} learns from {family.learns_from}"
        if given and name not in (*family.needs, *family.takes):
            raise ValueError(f"{subject}, not from {name}=")
        if name in family.needs and not given:
            raise ValueError(f"{subject}: give {name}=, such as {example}")
    if problem.actors is not None and not family.has_actors:
        raise ValueError(f"{recipe_of(what).name} steps its environments itself: leave out actors=")
    settings = settings_of(what, problem.key, hyperparameters)
    _require_effect(what, problem, settings.config)
    steps = settings.steps if problem.steps is None else problem.steps
    n_envs = problem.n_envs or (1 if is_made(problem.env) else settings.n_envs)
    if problem.actors is not None and problem.n_envs is None:  # as many for each actor
        n_envs = -(-n_envs // problem.actors) * problem.actors
    return settings._replace(steps=None if steps is None else whole("steps", steps, 1), n_envs=n_envs)


def _require_effect(what: Any, problem: Problem, config: Any) -> None:
    """Raises ValueError where other layers than usual are asked for, and the network is none that they could be in."""
    backbone = problem.backbone
    is_ready = not isinstance(backbone, str) or (backbone not in NAMED_BACKBONES and Path(backbone).is_file())
    if problem.agent is not None or (isinstance(backbone, str) and backbone in ("auto", "mlp")):
        return
    usual = settings_of(what, problem.key, {}).config if isinstance(what, str | Recipe) else type(config)()
    has_other_networks = problem.data is not None or hasattr(config, "n_critics")  # critics or a decoder, of net_arch
    asked = {name: getattr(config, name, None) for name in ("net_arch", "activation", "normalize")}
    for name, value in asked.items():
        if not value or value == getattr(usual, name):
            continue
        if (name == "net_arch" and is_ready and not has_other_networks) or (
            name == "activation" and (is_ready or backbone in NAMED_BACKBONES)
        ):
            kind = "a backbone that is ready" if is_ready else f"the backbone {backbone}"
            raise ValueError(f"{name}={value!r} has no effect on {kind}: leave it out")
        if name == "normalize" and is_ready and not _keeps_statistics(backbone):
            raise ValueError(
                "normalize=True has no effect on a backbone that is ready: leave it out, or give a network that keeps "
                "statistics, such as Chain([RunningNorm(shape), network])"
            )


def _keeps_statistics(backbone: Any) -> bool:
    """Whether a network, or that of a spec or a file, standardizes what it sees; one of the user's own may."""
    if not isinstance(backbone, nn.Module):
        backbone = from_spec(dict(backbone)) if isinstance(backbone, Mapping) else load_backbone(backbone)
    kinds = [module for module in backbone.modules() if hasattr(module, "observe")]
    return any(isinstance(module, RunningNorm) or not isinstance(module, Backbone) for module in kinds)


def job_of(what: Any, problem: Problem, **hyperparameters: Any) -> Job:
    """The job of a run, for callers with a loop of their own; the arguments are those of `plan`."""
    planned = plan(what, problem, hyperparameters)
    return planned.recipe.job(planned.fill(problem))


def settings_of(what: Any, key: str | None, given: Mapping[str, Any]) -> Plan:
    """The plan for any problem with this `Problem.key`, its usual length among it; each field's type is checked."""
    recipe, hyperparameters = recipe_of(what), dict(given)
    fields = [field.name for field in dataclasses.fields(recipe.config)]
    if "optimizer_name" in fields and "optimizer" in hyperparameters:  # config.optimizer() makes it
        hyperparameters["optimizer_name"] = hyperparameters.pop("optimizer")
    for name in hyperparameters:
        if name not in fields:
            known = [*fields, *(f.name for f in dataclasses.fields(Problem) if f.name != "config")]
            hint = f"; here it is {HERE[name]}" if name in HERE else close_matches(name, known)
            raise ValueError(f"{recipe.name} has no hyperparameter {name!r}{hint}")
    if isinstance(what, str | Recipe):
        values = dict(preset_of(recipe, key))
        steps, n_envs = values.pop("steps", recipe.steps), values.pop("n_envs", 1)
        origin = "the defaults" if not values else f"the preset for {key}" if key else "the preset"
    else:
        values = {name: getattr(what, name) for name in fields}
        steps, n_envs, origin = recipe.steps, 1, "the config"
    return Plan(recipe, config_from_json(recipe.config, {**values, **hyperparameters}), steps, origin, n_envs)


def preset_of(recipe: Recipe, key: str | None) -> Mapping[str, Any]:
    """The settings for an environment's id or a data set's name; all games of Atari share one, and all of MiniGrid."""
    return recipe.presets.get(preset_key(key or ""), recipe.presets.get("", {}))
