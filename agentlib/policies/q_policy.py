"""Acting by action values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Observation, Spec, spec_of


class QPolicy(nn.Module):
    """Action values over a backbone, and the greedy choice among them.

    Args:
        backbone: any network with a `feature_dim`.
        n_actions: number of discrete actions.
    """

    def __init__(self, backbone: Backbone | nn.Module, n_actions: int) -> None:
        super().__init__()
        self.backbone, self.n_actions = backbone, int(n_actions)
        self.is_sequence = bool(getattr(backbone, "is_sequence", False))
        self.distributional, self.is_branched = None, False
        self.head = nn.Linear(int(backbone.feature_dim), self.n_actions)  # type: ignore[arg-type]

    @property
    def spec(self) -> Spec:
        """The name and arguments that rebuild this policy."""
        return {"name": "q", "arguments": {"backbone": spec_of(self.backbone), "n_actions": self.n_actions}}

    def forward(
        self, observation: Observation, state: Any = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Values `(B, n_actions)` of a batch of observations, and the state (unused: this policy has no memory)."""
        if self.is_sequence:
            features, state = self.backbone(observation, state, episode_start)
        else:
            features = self.backbone(observation)
        values: Tensor = self.head(features)
        return values, state

    def initial_state(self, batch_size: int) -> Any:
        """The memory at the start of `batch_size` episodes; None without memory."""
        return self.backbone.initial_state(batch_size) if self.is_sequence else None  # type: ignore[operator]

    def choose(self, output: Tensor) -> Tensor:
        """The greedy actions `(B,)`; the first of equal ones."""
        return output.argmax(-1)

    def acted(self, state: Any, action: Tensor) -> Any:
        """The memory once these actions `(B,)` were taken: some backbones read the last one."""
        return self.backbone.acted(state, action) if hasattr(self.backbone, "acted") else state  # type: ignore[operator]

    @torch.no_grad()
    def observe(self, observation: Observation) -> None:
        """Takes a batch of observations into the backbone's running statistics, if it keeps any."""
        if hasattr(self.backbone, "observe"):
            self.backbone.observe(observation)  # type: ignore[operator]
