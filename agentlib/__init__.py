"""Agents and learners for Gymnasium, on shared PyTorch backbones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import agentlib.envs  # noqa: F401 - registers our environments

if TYPE_CHECKING:
    from agentlib.agent import Agent
    from agentlib.core import Recipe
    from agentlib.experience import Evaluation, evaluate
    from agentlib.runs.result import Result
    from agentlib.runs.sweep import sweep
    from agentlib.runs.sweep_result import Sweep
    from agentlib.runs.train import train
    from agentlib.sb3 import Comparison
    from agentlib.sb3.compare import compare

__version__ = "0.1.0.dev0"

__all__ = ["Agent", "Comparison", "Evaluation", "Recipe", "Result", "Sweep", "compare", "evaluate", "sweep", "train"]

_HOMES = {
    "Agent": "agentlib.agent",
    "Comparison": "agentlib.sb3",
    "Evaluation": "agentlib.experience",
    "Recipe": "agentlib.core",
    "Result": "agentlib.runs.result",
    "Sweep": "agentlib.runs.sweep_result",
    "compare": "agentlib.sb3.compare",
    "evaluate": "agentlib.experience",
    "sweep": "agentlib.runs.sweep",
    "train": "agentlib.runs.train",
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    # Loaded at first use, so that `import agentlib` costs little.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agentlib' has no attribute {name!r}")
