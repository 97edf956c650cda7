"""The contracts that all rooms share, and the parts of the loop. A name is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlib.core.learner import Learner, Update
    from agentlib.core.recipe import Counterpart, Measure, Recipe
    from agentlib.core.rule import Rule
    from agentlib.core.schedules import Clock, Cosine, InverseSquareRoot, Linear, Schedule, Warmup, at, scaled_to_batch
    from agentlib.core.source import Source
    from agentlib.core.step import Optimizer, Step
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
    **dict.fromkeys(("Learner", "Update"), "agentlib.core.learner"),
    **dict.fromkeys(("Counterpart", "Measure", "Recipe"), "agentlib.core.recipe"),
    **dict.fromkeys(("Rule",), "agentlib.core.rule"),
    **dict.fromkeys(
        ("Clock", "Cosine", "InverseSquareRoot", "Linear", "Schedule", "Warmup", "at", "scaled_to_batch"),
        "agentlib.core.schedules",
    ),
    **dict.fromkeys(("Source",), "agentlib.core.source"),
    **dict.fromkeys(("Optimizer", "Step"), "agentlib.core.step"),
    **dict.fromkeys(("Target", "average_rate"), "agentlib.core.target"),
}


def __getattr__(name: str) -> Any:
    # Late, so that what needs no torch, such as `agentlib.plots`, does not bring it.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agentlib.core' has no attribute {name!r}")
