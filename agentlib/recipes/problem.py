"""What a run is about, and what a recipe makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.data.source import Source
from agentlib.training.learner import Learner


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be learned from: the arguments of `agentlib.train` that are no hyperparameters."""

    env: Any = None
    """An id, an instance, a factory, or a vector environment."""
    n_envs: int = 1
    """Environments stepped side by side."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Given to the environment's constructor."""
    steps: int | None = None
    """Length of the run."""
    agent: Agent | None = None
    """Go on from this agent."""


@dataclass(kw_only=True)
class Job:
    """A learner with all that a run needs; `agentlib.train` knows nothing else."""

    learner: Learner
    source: Source
    updates: int
    """Updates in the whole run."""
    steps: int
    """Steps in the whole run, on the source's clock."""
    product: Callable[[], Agent]
    """The agent as it is now; it shares the learner's weights."""
    measures: Callable[[], dict[str, float]]
    """What there is to log besides the learner's metrics, under SB3's names."""
    close: Callable[[], None]
    """Releases what the recipe made."""
    tables: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts for the run's record."""


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Networks built inside have weights from this seed; the host's generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def choose_device(device: str | torch.device, network: nn.Module) -> torch.device:
    """The device asked for; "auto" takes a GPU for networks that gain from one: convolutions, or a million weights."""
    if str(device) != "auto":
        return torch.device(device)
    large = sum(parameter.numel() for parameter in network.parameters()) > 1_000_000
    if torch.cuda.is_available() and (large or any(isinstance(module, nn.Conv2d) for module in network.modules())):
        return torch.device("cuda")
    return torch.device("cpu")
