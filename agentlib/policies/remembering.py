"""Acting with memory, in environments that are stepped side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from agentlib.policies.acting import decide
from agentlib.policies.base import noted


class MemoryActor:
    """The best actions of a policy with memory, which it keeps from call to call, by the policy's present weights.

    Args:
        policy: as `agentlib.policies` has them, over a backbone with memory.
        observation_space: of one environment.
    """

    always_asked = True
    """It has to see every observation, also where its action is not used."""

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any]) -> None:
        self.policy, self.space = policy, observation_space
        self.before: Any = None
        """The state in which the last observations were read."""
        self.state: Any = None
        self.starts = np.zeros(0, bool)

    def begin(self, num_envs: int, where: NDArray[np.bool_] | None = None) -> None:
        """New episodes in the environments `where` (all by default): their memory is reset before it is used."""
        if where is None or self.state is None:
            self.state, self.starts = self.policy.initial_state(num_envs), np.ones(num_envs, bool)  # type: ignore[operator]
        else:
            self.starts = self.starts | where

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(n,)` for a batch of observations, among the legal ones if a mask `(n, A)` is given."""
        self.before = self.state
        action, self.state = decide(self.policy, self.space, observation, self.state, self.starts, mask=mask)
        self.starts = np.zeros(len(self.starts), bool)
        return action

    def acted(self, action: NDArray[Any]) -> None:
        """These actions `(n, ...)` are taken, whatever was proposed."""
        device = next(self.policy.parameters()).device
        self.state = noted(self.policy, self.state, torch.as_tensor(action, device=device))
