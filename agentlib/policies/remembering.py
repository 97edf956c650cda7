"""Acting with memory, in environments that are stepped side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.policies.acting import in_eval_mode, to_tensors
from agentlib.training.trees import mapped


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
        device = next(self.policy.parameters()).device
        with in_eval_mode(self.policy):
            tensors = mapped(to_tensors(self.space, observation, device), lambda leaf: leaf[:, None])  # (n, 1, ...)
            starts = torch.as_tensor(self.starts, device=device)[:, None]  # (n, 1)
            self.before = self.state
            output, self.state = self.policy(tensors, self.state, starts)
            masks = () if mask is None else (torch.as_tensor(mask, device=device),)
            action: Tensor = self.policy.choose(output[:, 0], *masks)  # type: ignore[operator]
        self.starts = np.zeros(len(self.starts), bool)
        return action.cpu().numpy()

    def acted(self, action: NDArray[Any]) -> None:
        """These actions `(n, ...)` are taken, whatever was proposed."""
        if hasattr(self.policy.backbone, "acted"):
            device = next(self.policy.parameters()).device
            self.state = self.policy.backbone.acted(self.state, torch.as_tensor(action, device=device))  # type: ignore[operator]
