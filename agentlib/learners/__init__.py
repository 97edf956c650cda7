"""One file per algorithm, in a folder per family. A name is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agentlib.catalog import LEARNERS
from agentlib.core import Learner, Recipe, Update
from agentlib.engine import run

__all__ = ["Learner", "Update", "run"]

_FILES = {place.partition(":")[0].rpartition(".")[2].replace("_", ""): place for place, _ in LEARNERS.values()}


def __getattr__(name: str) -> Any:
    # `DecisionTransformer` and `DecisionTransformerConfig` are in decision_transformer.py.
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
