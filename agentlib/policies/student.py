"""A policy that acts while it is trained, and gates that decide when the expert is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.numbers import whole
from agentlib.core.trees import leaves
from agentlib.policies.acting import GreedyActor, actions_and_output, remembered
from agentlib.policies.base import state_after
from agentlib.policies.discrete import DiscretePolicy
from agentlib.policies.ensemble import EnsemblePolicy

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Proposed:
    """A student's actions, and the policy's output behind them."""

    action: NDArray[Any]
    """`(n, ...)`: indices from 0 for discrete actions."""
    output: Tensor
    """`(n, ...)`"""


class Student:
    """A policy's actions for batches of observations, always by its present weights, with its memory.

    Args:
        policy: any of `agentlib.policies`.
        observation_space: of one environment.
        deterministic: take the best actions; otherwise they are sampled from the policy's distribution, if it has one,
            so that more of its possible episodes are met.
        seed: of its own generator.
    """

    def __init__(
        self, policy: nn.Module, observation_space: spaces.Space[Any], *, deterministic: bool = False, seed: int = 0
    ) -> None:
        self.policy, self.space = policy, observation_space
        self.is_sequence = bool(getattr(policy, "is_sequence", False))
        self.draws = not deterministic and bool(getattr(policy, "is_stochastic", False))
        self.generator = np.random.default_rng([whole("seed", seed), 3])
        self.memory: Any = None
        self.actor = GreedyActor(policy, observation_space)

    def __call__(self, observation: Any, episode_start: Bools) -> Proposed:
        """A proposal for each of n environments; a memory is reset where `episode_start (n,)` is true."""
        logits = self.actor.logits(observation)
        if logits is not None:
            # Gumbel-max, as `agentlib.policies.discrete.sample_logits` does it.
            scores = logits + self.generator.gumbel(size=logits.shape) if self.draws else logits
            return Proposed(scores.argmax(1), torch.from_numpy(logits))
        if self.is_sequence and self.memory is None:
            self.memory = self.policy.initial_state(len(episode_start))  # type: ignore[operator]
        seed = int(self.generator.integers(2**63)) if self.draws else None
        action, output, state = actions_and_output(
            self.policy, self.space, observation, self.memory, episode_start, seed
        )
        self.memory = state if self.is_sequence else None
        return Proposed(action.cpu().numpy(), output)

    def acted(self, action: NDArray[Any]) -> None:
        """Gives a memory the actions `(n, ...)`, from 0, that were executed, if it reads them."""
        reader: Any = self.policy if hasattr(self.policy, "acted") else getattr(self.policy, "backbone", self.policy)
        if self.is_sequence:
            device = next(self.policy.parameters()).device
            self.memory = state_after(reader, self.memory, torch.as_tensor(action, device=device))

    def state(self) -> dict[str, Any]:
        """The generator's state and the memory, for a checkpoint."""
        parts = leaves(self.memory)
        return {"generator": self.generator.bit_generator.state, "memory": parts, "envs": len(parts[0]) if parts else 0}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state["generator"]
        self.memory = remembered(self.policy, state["envs"], state["memory"])


TEMPERATURES = np.geomspace(1.0, 20.0, 301).tolist()
"""Those that `UnsureGate.calibrate` chooses from, one percent apart."""


class UnsureGate:
    """Asks where the probability of the action that the policy would choose is below a threshold.

    An action with a probability of 95% may be right less often than that. `calibrate` finds the temperature that
    corrects it.

    Args:
        policy: with discrete choices, or an ensemble of such; several choices count as one, all right or not.
        threshold: between 0 and 1.
        temperature: the logits are divided by it; above 1 for a policy that is surer than it is right.

    Raises:
        ValueError: a policy without probabilities.
    """

    needs_training = True

    def __init__(self, policy: nn.Module, threshold: float = 0.9, temperature: float = 1.0) -> None:
        member = policy.members[0] if isinstance(policy, EnsemblePolicy) else policy
        if not isinstance(member, DiscretePolicy):
            raise ValueError(
                f"{type(member).__name__} has no probabilities to be unsure of: use an ensemble and its disagreement"
            )
        self.policy, self.threshold, self.temperature = policy, threshold, temperature

    def __call__(self, observation: Any, proposed: Proposed) -> Bools:
        """Where to ask, `(n,)`."""
        output = proposed.output / self.temperature
        log_prob = self.policy.log_prob(output, self.policy.choose(output))  # type: ignore[operator]
        return (log_prob.exp() < self.threshold).cpu().numpy()  # type: ignore[no-any-return]

    def calibrate(self, output: Tensor, label: Tensor) -> None:
        """Takes the temperature under which the answers are likeliest (Guo et al. 2017, arXiv:1706.04599).

        It is never below 1: a gate gets answers only where it asked, and a policy that is right where it is unsure
        need not be too modest elsewhere.

        Args:
            output: of the policy `(N, ...)`, before it learned from these answers; with N = 0 nothing changes.
            label: the expert's answers `(N, ...)`, indices from 0.
        """
        if len(output):
            scores = [self.policy.log_prob(output / one, label).double().mean() for one in TEMPERATURES]  # type: ignore[operator]
            self.temperature = TEMPERATURES[int(torch.stack(scores).argmax())]

    def state(self) -> dict[str, Any]:
        """The temperature, for a checkpoint."""
        return {"temperature": self.temperature}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.temperature = float(state["temperature"])


class DisagreementGate:
    """Asks where the members of an ensemble are further apart than a threshold.

    Args:
        policy: an ensemble.
        threshold: of `EnsemblePolicy.disagreement`, between 0 and 1.

    Raises:
        ValueError: a policy that is no ensemble of several.
    """

    needs_training = True  # fresh members agree that they know nothing

    def __init__(self, policy: nn.Module, threshold: float = 0.1) -> None:
        if not isinstance(policy, EnsemblePolicy) or len(policy.members) < 2:
            raise ValueError("disagreement needs an ensemble: set ensemble=5, for example")
        self.policy, self.threshold = policy, threshold

    def __call__(self, observation: Any, proposed: Proposed) -> Bools:
        """Where to ask, `(n,)`."""
        return (self.policy.disagreement(proposed.output) > self.threshold).cpu().numpy()
