"""Agents and learners for Gymnasium, on shared PyTorch backbones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import agentlib.envs  # noqa: F401 - registers our environments

if TYPE_CHECKING:
    from agentlib._compare import compare
    from agentlib._train import train
    from agentlib.agent import Agent
    from agentlib.evaluation import Comparison, Evaluation, evaluate
    from agentlib.recipes import Result

__version__ = "0.1.0.dev0"

__all__ = ["Agent", "Comparison", "Evaluation", "Result", "compare", "evaluate", "train"]

_HOMES = {
    "Agent": "agentlib.agent",
    "Comparison": "agentlib.evaluation",
    "Evaluation": "agentlib.evaluation",
    "Result": "agentlib.recipes",
    "compare": "agentlib._compare",
    "evaluate": "agentlib.evaluation",
    "train": "agentlib._train",
}


def __getattr__(name: str) -> Any:
    # Loaded at first use, so that `import agentlib` costs little.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agentlib' has no attribute {name!r}")
