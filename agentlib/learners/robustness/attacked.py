"""An agent that is attacked while it acts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.core.spaces import to_batch, to_tensors, unflatten
from agentlib.metrics.attacks import LossName, attack, loss_name
from agentlib.metrics.norms import Norm, random_point, units
from agentlib.metrics.scores import logits_from


class Attacked:
    """An agent whose observations are changed by PGD before it sees them; for `agentlib.evaluate`.

    The attack makes the action that the agent would take unlikely. It is the agent's own gradients that it follows.

    Args:
        agent: without memory, with discrete actions and a Box of floating-point numbers to observe.
        epsilon: largest change of an observation, in units of `scale`.
        norm: of the change.
        steps: of PGD.
        scale: the unit of epsilon for each number of an observation, such as its standard deviation; 0 counts as 1.
        loss: that the attack makes large, as `attack` has it; by default the margin of action values, which does not
            weaken as these grow, else the cross-entropy. The attribute `loss` names the one that is used.
        noise: a random change of the same size instead; the control of an attack.
        seed: of the random starts.

    Raises:
        TypeError: another kind of agent.
    """

    def __init__(
        self,
        agent: Agent,
        epsilon: float,
        *,
        norm: Norm = "linf",
        steps: int = 10,
        scale: float | np.ndarray[Any, Any] = 1.0,
        loss: LossName | None = None,
        noise: bool = False,
        seed: int = 0,
    ) -> None:
        space = agent.observation_space
        if not isinstance(space, spaces.Box) or space.dtype.kind != "f" or agent.has_memory:
            raise TypeError(
                f"an agent without memory and with floating-point observations can be attacked, not {agent}"
            )
        self.agent, self.epsilon, self.norm, self.steps, self.noise = agent, epsilon, norm, steps, noise
        self.observation_space, self.action_space = space, agent.action_space
        self.loss: Any = loss_name(agent.policy, loss)
        self.generator = torch.Generator(agent.device).manual_seed(seed)
        self.scale: Any = units(torch.as_tensor(scale, dtype=torch.float32, device=agent.device))
        self.bounds = tuple(torch.as_tensor(side, device=agent.device) for side in (space.low, space.high))

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.agent.check_spaces(observation_space, action_space)

    @property
    def takes_masks(self) -> bool:
        """Whether the agent respects masks of legal actions."""
        return self.agent.takes_masks

    def observed(self, observation: Any, action_mask: Any = None) -> np.ndarray[Any, Any]:
        """The changed observations that the agent gets for a batch of observations.

        With masks `(B, A)` the attack makes the agent take another legal action.
        """
        leaves, _ = to_batch(self.observation_space, observation)
        x = to_tensors(self.observation_space, unflatten(self.observation_space, leaves), self.agent.device)
        if self.epsilon == 0.0:
            changed = x
        elif self.noise:
            delta = random_point(x.flatten(1), self.epsilon, self.norm, self.generator).view_as(x)
            changed = (x + self.scale * delta).clamp(*self.bounds)
        else:
            changed = attack(
                self.agent.policy if action_mask is None else _Legal(self.agent.policy, action_mask),
                x,
                epsilon=self.epsilon,
                norm=self.norm,
                steps=self.steps,
                scale=self.scale,
                loss=self.loss,
                bounds=self.bounds,  # type: ignore[arg-type]
                generator=self.generator,
            )
        array: np.ndarray[Any, Any] = changed.cpu().numpy()
        return array

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        action_mask: Any = None,
    ) -> tuple[Any, Any]:
        """The agent's action for the changed observation."""
        changed = self.observed(observation, action_mask)
        single = np.ndim(observation) == len(self.observation_space.shape)
        seen = changed[0] if single else changed
        return self.agent.predict(seen, state, episode_start, deterministic, action_mask=action_mask)


class _Legal(nn.Module):
    """A policy's scores of the legal actions, by masks `(B, A)`, or `(A,)` for one observation."""

    def __init__(self, policy: nn.Module, action_mask: Any) -> None:
        super().__init__()
        self.policy, self.illegal = policy, torch.as_tensor(np.atleast_2d(action_mask) == 0)

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_from(self.policy, self.policy(x))
        return logits.masked_fill(self.illegal.to(logits.device), -torch.inf)
