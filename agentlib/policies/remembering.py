"""Acting with memory, in environments that are stepped side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.trees import leaves, mapped
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
        self.memory: Any = None
        """The state in which the next ones will be."""
        self.starts = np.zeros(0, bool)

    def begin(self, num_envs: int, where: NDArray[np.bool_] | None = None) -> None:
        """New episodes in the environments `where` (all by default): their memory is reset before it is used."""
        if where is None or self.memory is None:
            self.memory, self.starts = self.policy.initial_state(num_envs), np.ones(num_envs, bool)  # type: ignore[operator]
        else:
            self.starts = self.starts | where

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(n,)` for a batch of observations, among the legal ones if a mask `(n, A)` is given."""
        self.before = self.memory
        action, self.memory = decide(self.policy, self.space, observation, self.memory, self.starts, mask=mask)
        self.starts = np.zeros(len(self.starts), bool)
        return action

    def acted(self, action: NDArray[Any]) -> None:
        """These actions `(n, ...)` are taken, whatever was proposed."""
        device = next(self.policy.parameters()).device
        self.memory = noted(self.policy, self.memory, torch.as_tensor(action, device=device))

    def state(self) -> dict[str, Any]:
        """The memory, for a checkpoint."""
        return {"memory": leaves(self.memory), "starts": self.starts.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.starts = np.array(state["starts"])
        self.memory = remembered(self.policy, len(self.starts), state["memory"])


def remembered(policy: nn.Module, num_envs: int, parts: list[Tensor]) -> Any:
    """The memory of a policy in `num_envs` environments from its tensors; None if there are none."""
    if not parts:
        return None
    remaining = iter(parts)
    return mapped(policy.initial_state(num_envs), lambda like: next(remaining).to(like.device))  # type: ignore[operator]
