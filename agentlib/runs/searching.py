"""From a space of hyperparameters to Optuna's distributions, and from the numbers it draws to a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from agentlib.backbones.files import json_from
from agentlib.core.config import config_from_json
from agentlib.core.names import close_matches, one_line, shown
from agentlib.core.recipe import Recipe
from agentlib.runs.spaces import OF_DATA, OF_FAMILIES, OF_ZOO

KEYS = ("choices", "low", "high", "log", "step", "one_minus", "at_most", "divisor_of")


def import_optuna() -> Any:
    """Optuna.

    Raises:
        ImportError: it is absent; the message names the extra.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("sweeps need Optuna: pip install 'agentlib-rl[sweep]'") from error
    return optuna


def space_for(recipe: Recipe, asked: Any, base: Any, pinned: Mapping[str, Any], backbone: Any) -> dict[str, Any]:
    """The space to search: of the learner's family, the zoo's, a file's, or the one that was given.

    Args:
        recipe: of the learner.
        asked: None, "zoo", the path of a JSON file, or a space.
        base: the config that the settings of a trial are put into.
        pinned: hyperparameters that stay as they are, and are left out.
        backbone: as `train` takes it; `net_arch` is left out of a ready-made space where it has no effect.

    Raises:
        ValueError: no space, one that names no hyperparameter of the learner, or values that its config refuses.
    """
    names = [field.name for field in fields(base)]
    is_ready_made = asked is None or asked == "zoo"
    if is_ready_made:
        left_out = () if backbone in ("auto", "mlp") else ("net_arch",)
        found = {name: spec for name, spec in _ready_made(recipe, asked).items() if name in names}
        found = {name: spec for name, spec in found.items() if name not in left_out}
    else:
        found = dict(asked if isinstance(asked, Mapping) else _read(asked))
    for name in found:
        if name not in names:
            raise ValueError(
                f"the space: {recipe.name} has no hyperparameter {shown(name)}{close_matches(name, names)}"
            )
    space = {name: _checked(name, spec, names) for name, spec in found.items() if name not in pinned}
    if not space:
        but = " but those that were given a value" * bool(found)
        raise ValueError(f"the space names no hyperparameter to search{but}; {recipe.name} has {', '.join(names)}")
    for name, spec in space.items():
        for value in _ends(spec):
            try:
                config_with(base, {name: value})
            except ValueError as error:
                raise ValueError(f"the space: {one_line(error)}") from None
    return space


def _ready_made(recipe: Recipe, asked: Any) -> Mapping[str, Any]:
    if asked is None:
        return OF_FAMILIES.get(recipe.family.assemble.__name__, OF_DATA)
    algorithm = "" if recipe.sb3 is None else recipe.sb3.algorithm
    if algorithm not in OF_ZOO:
        raise ValueError(f"the zoo has no space for {recipe.name}; it has those of {', '.join(OF_ZOO)}")
    return OF_ZOO[algorithm]


def _read(path: Any) -> dict[str, Any]:
    """The space of a JSON file."""
    if not isinstance(path, str | Path):
        raise ValueError(f'a space is a dictionary, the path of a JSON file, or "zoo", not {shown(path)}')
    if not Path(path).is_file():
        raise ValueError(f'there is no file {shown(str(path))}: a space is a JSON file, or "zoo"')
    try:
        found = json_from(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a dictionary of hyperparameters")
    return found


def _checked(name: str, spec: Any, names: list[str]) -> dict[str, Any]:
    """A specification in its long form.

    Raises:
        ValueError: it is none.
    """

    def require(fits: Any, wanted: str) -> None:
        if not fits:
            raise ValueError(f"the space: {name} must be {wanted}, not {shown(spec)}")

    spec = {"choices": list(spec)} if isinstance(spec, list | tuple) else spec
    forms = 'a list of choices, or a range such as {"low": 1e-4, "high": 1e-2, "log": true}'
    require(isinstance(spec, Mapping) and ("choices" in spec) != ("low" in spec and "high" in spec), forms)
    require(set(spec) <= set(KEYS), f"of {', '.join(KEYS)}")
    if "choices" in spec:
        require(isinstance(spec["choices"], list | tuple) and spec["choices"], "a list of choices, one at least")
    else:
        ends = [spec["low"], spec["high"]]
        require(all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends), "a range of numbers")
        require(ends[0] < ends[1], "a range from a lower to a higher number")
        require(not spec.get("log") or ends[0] > 0, "above zero, with a logarithmic scale")
        require(not (spec.get("log") and spec.get("step")), "either logarithmic or in steps")
    for key in ("at_most", "divisor_of"):
        require(key not in spec or spec[key] in names, f"tied to another hyperparameter by {key!r}")
    return dict(spec)


def _ends(spec: Mapping[str, Any]) -> list[Any]:
    """The values to look at before anything runs."""
    if "divisor_of" in spec:
        return []
    values = spec["choices"] if "choices" in spec else [spec["low"], spec["high"]]
    return [1 - value for value in values] if spec.get("one_minus") else list(values)


def _label(choice: Any) -> Any:
    """A choice as Optuna keeps it."""
    return choice if choice is None or isinstance(choice, bool | int | float | str) else json.dumps(choice)


def distributions(space: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's distribution of each hyperparameter."""
    kinds = import_optuna().distributions
    found = {}
    for name, spec in space.items():
        if "choices" in spec:
            found[name] = kinds.CategoricalDistribution([_label(choice) for choice in spec["choices"]])
            continue
        low, high, step = spec["low"], spec["high"], spec.get("step")
        is_whole = isinstance(low, int) and isinstance(high, int)
        kind = kinds.IntDistribution if is_whole else kinds.FloatDistribution
        found[name] = kind(low, high, log=bool(spec.get("log")), step=(step or 1) if is_whole else step)
    return found


def settings_from(space: Mapping[str, Any], drawn: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """The hyperparameters of a trial, of the numbers that Optuna drew for it, and others from the base config."""
    found: dict[str, Any] = {}
    for name, spec in space.items():
        value = drawn[name]
        if "choices" in spec:
            value = next(choice for choice in spec["choices"] if _label(choice) == value)
        found[name] = 1 - value if spec.get("one_minus") else value
    for name, spec in space.items():
        if other := spec.get("divisor_of"):
            found[name] = max(found.get(other, getattr(base, other)) // found[name], 1)
        if other := spec.get("at_most"):
            found[name] = min(found[name], found.get(other, getattr(base, other)))
    return found


def config_with(base: Any, settings: Mapping[str, Any]) -> Any:
    """The base config with other settings, each of which is checked."""
    return config_from_json(
        type(base), {field.name: getattr(base, field.name) for field in fields(base)} | {**settings}
    )
