"""One file per algorithm, in a folder per family. A name is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agentlib.catalog import LEARNERS
from agentlib.core import Learner, Recipe, Update
from agentlib.engine import run

__all__ = ["Learner", "Update", "run"]

_FILES = {name.replace("_", ""): place for name, (place, _) in LEARNERS.items()}
_FILES |= {place.partition(":")[0].rpartition(".")[2].replace("_", ""): place for place, _ in LEARNERS.values()}


def __getattr__(name: str) -> Any:
    # `DecisionTransformerConfig` is in decision_transformer.py; `CQLConfig` is where the catalog has "cql".
    place = _FILES.get(name.removesuffix("Config").lower())
    if place is not None and not name.islower():
        module = import_module(f"agentlib.learners.{place.partition(':')[0]}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'agentlib.learners' has no attribute {name!r}")


def __dir__() -> list[str]:
    modules = [import_module(f"agentlib.learners.{place.partition(':')[0]}") for place, _ in LEARNERS.values()]
    recipes = [value for module in modules for value in vars(module).values() if isinstance(value, Recipe)]
    return sorted({*__all__, *(kind.__name__ for recipe in recipes for kind in (recipe.learner, recipe.config))})
