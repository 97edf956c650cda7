"""The contracts that all rooms share, and the parts of the loop. A name is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlib.core.learner import Learner, Update
    from agentlib.core.recipe import Counterpart, Measure, Recipe
    from agentlib.core.schedules import Clock, Cosine, InverseSquareRoot, Linear, Schedule, Warmup, at, scaled_to_batch
    from agentlib.core.source import Source
    from agentlib.core.step import Optimizer, Rule, Step
    from agentlib.core.target import Target, average_rate

__all__ = [
    "Clock",
    "Cosine",
    "Counterpart",
    "InverseSquareRoot",
    "Learner",
    "Linear",
    "Measure",
    "Optimizer",
    "Recipe",
    "Rule",
    "Schedule",
    "Source",
    "Step",
    "Target",
    "Update",
    "Warmup",
    "at",
    "average_rate",
    "scaled_to_batch",
]

_HOMES = {
    "learner": ("Learner", "Update"),
    "recipe": ("Counterpart", "Measure", "Recipe"),
    "schedules": ("Clock", "Cosine", "InverseSquareRoot", "Linear", "Schedule", "Warmup", "at", "scaled_to_batch"),
    "source": ("Source",),
    "step": ("Optimizer", "Rule", "Step"),
    "target": ("Target", "average_rate"),
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Late, so that what needs no torch, such as `agentlib.plots`, does not bring it.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"agentlib.core.{module}"), name)
    raise AttributeError(f"module 'agentlib.core' has no attribute {name!r}")
