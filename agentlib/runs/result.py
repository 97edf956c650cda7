"""The result of a run on data, or of one that makes no agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from agentlib.agent import Agent
from agentlib.core.recipe import Measure


@dataclass(frozen=True, eq=False)
class Result:
    """A trained model, and how good it is."""

    model: nn.Module
    """The network that was trained, in eval mode."""
    metrics: dict[str, float]
    """The last numbers of the training."""
    judged: tuple[Measure, ...]
    """Measures on data by which nothing was chosen, each beside its reference."""
    pictures: tuple[Path, ...] = ()
    """Files that show the result; only of runs with a folder."""
    agent: Agent | None = None
    """The model as an agent, to save and to use anywhere: its observation is an example, its action the prediction."""

    @property
    def measures(self) -> dict[str, float]:
        """The values of `judged`, by name."""
        return {measure.name: measure.value for measure in self.judged}

    @property
    def references(self) -> dict[str, float]:
        """The numbers to hold the measures against, under the same names."""
        return {measure.name: measure.reference for measure in self.judged if measure.reference is not None}

    @property
    def backbone(self) -> nn.Module:
        """The network under the model's head, for another learner to go on with.

        Raises:
            AttributeError: the model has no backbone.
        """
        backbone = self.model.backbone
        assert isinstance(backbone, nn.Module)
        return backbone

    def __str__(self) -> str:
        return "\n".join(map(str, self.judged)) or "no measures"
