"""From observations in numpy to actions in numpy."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.modes import in_eval_mode
from agentlib.core.spaces import is_masked, observed_mask, to_tensors
from agentlib.core.trees import mapped
from agentlib.policies.base import noted
from agentlib.policies.numpy_shortcut import NumpyShortcut, numpy_shortcut
from agentlib.policies.q_heads import NoisyLinear, noisy_weights


def decide(
    policy: nn.Module,
    space: spaces.Space[Any],
    observation: Any,
    state: Any = None,
    episode_start: NDArray[np.bool_] | None = None,
    seed: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], Any]:
    """Actions `(B, ...)` of a policy for a batch of observations (numpy), and its next state, once they are taken.

    Args:
        policy: as `agentlib.policies` has them, with memory or without.
        space: of one observation.
        observation: batched.
        state: of a policy with memory; the initial state by default.
        episode_start: `(B,)`, true where the state is to be reset first.
        seed: draw actions by a generator with this seed, in place of the best ones.
        mask: `(B, A)`, true where an action is legal, for policies of action values; the mask in a Dict observation is
            found without it.
    """
    if mask is None and getattr(policy, "takes_masks", False) and is_masked(space):
        mask = observed_mask(observation, sum(policy.branches))  # type: ignore[arg-type]
    device = next(policy.parameters()).device
    tensors = to_tensors(space, observation, device)
    with in_eval_mode(policy):
        if getattr(policy, "is_sequence", False):
            tensors = mapped(tensors, lambda leaf: leaf[:, None])  # (B, 1, ...)
            starts = None if episode_start is None else torch.as_tensor(episode_start, device=device)[:, None]
            output, state = policy(tensors, state, starts)
            output = output[:, 0]  # (B, n)
        else:
            output, state = policy(tensors, state)
        actions: Tensor
        if seed is None:
            masks = () if mask is None else (torch.as_tensor(mask, device=device),)
            actions = policy.choose(output, *masks)  # type: ignore[operator]
        else:
            actions = policy.sample(output, torch.Generator(device).manual_seed(seed))  # type: ignore[operator]
        state = noted(policy, state, actions)
    return actions.cpu().numpy(), state


class GreedyActor:
    """The best actions for batches of observations, always by the policy's present weights; without memory.

    A plain MLP on the CPU is computed by numpy on views of its weights, for up to `NUMPY_ROWS` observations at once,
    and the Nature CNN for one (`agentlib/policies/numpy_shortcut.py`).

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment.
        noise_seed: act by weights with fresh noise at each call, where the policy has noisy layers; without it, by
            their means.
    """

    always_asked = False

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], noise_seed: int | None = None) -> None:
        self.policy, self.space = policy, observation_space
        self.shortcut = numpy_shortcut(policy)
        noisy = noise_seed is not None and any(isinstance(layer, NoisyLinear) for layer in policy.modules())
        self.generator = np.random.default_rng([noise_seed or 0, 2]) if noisy else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shortcut": None}  # the copy of a view would see no changes of the weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.shortcut = numpy_shortcut(self.policy)

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for a batch of observations.

        Where a `mask (B, A)` of legal actions is given, only these are chosen.
        """
        shortcut = self._shortcut(observation)
        if shortcut is not None:
            return shortcut(observation, mask)
        with nullcontext() if self.generator is None else noisy_weights(self.policy, self.generator):
            return decide(self.policy, self.space, observation, mask=mask)[0]

    def logits(self, observation: Any) -> NDArray[np.float32] | None:
        """Logits or values `(B, n)` of one choice by the shortcut; None where there is none."""
        shortcut = self._shortcut(observation)
        return None if shortcut is None or not shortcut.gives_logits else shortcut.output(observation)

    def _shortcut(self, observation: Any) -> NumpyShortcut | None:
        shortcut = self.shortcut
        if shortcut is None or not shortcut.takes(observation):
            return None
        if shortcut.is_current():  # nearly always
            return shortcut
        self.shortcut = numpy_shortcut(self.policy)
        return self.shortcut

    def state(self) -> dict[str, Any]:
        """The state of the noise's generator, for a checkpoint."""
        return {} if self.generator is None else dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        if self.generator is not None:
            self.generator.bit_generator.state = state
