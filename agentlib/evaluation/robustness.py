"""How a model or an agent fares under attack.

    robust accuracy = share of examples that stay right under every attack that was tried

An example counts as robust only if no restart fooled it. An accuracy that stays high while epsilon grows to the whole
range of the data means that the gradients are hidden, not that the model is robust (Athalye et al. 2018,
arXiv:1802.00420).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.envs.spaces import to_batch, unflatten
from agentlib.evaluation.calibration import logits_of
from agentlib.learners.robustness.attacks import attack
from agentlib.learners.robustness.norms import Bounds, Norm, random_point
from agentlib.policies.acting import to_tensors

CHUNK = 512
"""Examples that are attacked at once."""


def robust_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    bounds: Bounds | None = (0.0, 1.0),
    scale: float | Tensor = 1.0,
    seed: int = 0,
) -> float:
    """The share of examples `(N, ...)` that a model gets right under PGD; with epsilon 0, its plain accuracy.

    Args:
        model: a classifier or policy, attacked in eval mode.
        x: examples, floating-point.
        y: true classes `(N,)`.
        epsilon: see `attack`, as for the following.
        norm: of the ball.
        steps: 1 is FGSM, which starts at x.
        step_size: of each step.
        restarts: an example must survive all of them.
        bounds: of the data.
        scale: what one unit of epsilon is.
        seed: of the random starts.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    right = []
    for points, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        standing = logits_of(model, points).argmax(1) == labels
        for _ in range(restarts if epsilon > 0.0 else 0):
            changed = attack(
                model,
                points,
                labels,
                epsilon=epsilon,
                norm=norm,
                steps=steps,
                step_size=step_size,
                bounds=bounds,
                scale=scale,
                generator=generator,
            )
            standing &= logits_of(model, changed).argmax(1) == labels
        right.append(standing)
    return float(torch.cat(right).double().mean())


def accuracy_curve(
    model: nn.Module, x: Tensor, y: Tensor, epsilons: Sequence[float], **settings: Any
) -> dict[float, float]:
    """`robust_accuracy` at each epsilon, with its other arguments as `settings`."""
    return {epsilon: robust_accuracy(model, x, y, epsilon=epsilon, **settings) for epsilon in epsilons}


class Attacked:
    """An agent whose observations are changed by PGD before it sees them; for `agentlib.evaluate`.

    The attack makes the action that the agent would take unlikely. It is the agent's own gradients that it follows.

    Args:
        agent: without memory, with discrete actions and a Box of floating-point numbers to observe.
        epsilon: how far each observation may be changed, in units of `scale`.
        norm: of the change.
        steps: of PGD.
        scale: what one unit of epsilon is for each number of an observation, such as its standard deviation.
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
        self.generator = torch.Generator(agent.device).manual_seed(seed)
        self.scale: Any = torch.as_tensor(scale, dtype=torch.float32, device=agent.device)
        self.bounds = tuple(torch.as_tensor(side, device=agent.device) for side in (space.low, space.high))

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """As the agent has it."""
        self.agent.check_spaces(observation_space, action_space)

    def observed(self, observation: Any) -> np.ndarray[Any, Any]:
        """What the agent gets to see of a batch of observations."""
        leaves, _ = to_batch(self.observation_space, observation)
        x = to_tensors(self.observation_space, unflatten(self.observation_space, leaves), self.agent.device)
        if self.epsilon == 0.0:
            changed = x
        elif self.noise:
            delta = random_point(x.flatten(1), self.epsilon, self.norm, self.generator).view_as(x)
            changed = (x + self.scale * delta).clamp(*self.bounds)
        else:
            changed = attack(
                self.agent.policy,
                x,
                epsilon=self.epsilon,
                norm=self.norm,
                steps=self.steps,
                scale=self.scale,
                bounds=self.bounds,  # type: ignore[arg-type]
                generator=self.generator,
            )
        array: np.ndarray[Any, Any] = changed.cpu().numpy()
        return array

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """The agent's action for the changed observation."""
        changed = self.observed(observation)
        single = np.ndim(observation) == len(self.observation_space.shape)
        seen = changed[0] if single else changed
        return self.agent.predict(seen, state, episode_start, deterministic)
