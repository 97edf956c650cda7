"""A policy as one function of named tensors, from raw observations to actions of the space, for other runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.numbers import whole
from agentlib.core.spaces import Leaf, choices, is_masked, leaf_shape, leaf_spaces, observed_mask, unflatten
from agentlib.core.trees import leaves, mapped
from agentlib.policies.base import state_after

USUAL = 1e6
"""Bounds that are further apart are no guide to the size of what an environment gives."""


class Exported(nn.Module):
    """Named tensors in, named tensors out, each with a leading axis for the batch; always the best actions.

    | input | what |
    |---|---|
    | `observation` | in the dtype of the space; the parts of a Dict or Tuple: `observation.goal`, `observation.0` ... |
    | `action_mask` | `(B, A)` bool, if masks are an input |
    | `episode_start` | `(B,)` bool, with memory: where it is true, the state is reset before it is used |
    | `state`, or `state.0` ... | with memory: what the last call gave as `next_state...`; zeros before the first |

    The outputs are `action`, and with memory `next_state...`, one for each `state...`.

    Args:
        policy: on the CPU, in eval mode.
        observation_space: of one environment.
        action_space: of one environment.
        action_mask: whether masks are an input; one in a Dict observation is found without it.

    Raises:
        ValueError: parts of the observation that would have the same name.
    """

    def __init__(
        self,
        policy: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        action_mask: bool = False,
    ) -> None:
        super().__init__()
        self.policy: Any = policy
        self.observation_space, self.action_space, self.takes_mask = observation_space, action_space, action_mask
        finds_mask = is_masked(observation_space) and getattr(policy, "takes_masks", False)
        self.observed_width = sum(choices(action_space)) if finds_mask else 0
        self.has_memory = bool(getattr(policy, "is_sequence", False))
        self.first_state = policy.initial_state(1) if self.has_memory else None  # type: ignore[operator]
        self.leaves = names_of(observation_space, "observation")
        self.states = names_of(self.first_state, "state")
        if len(set(self.leaves)) < len(self.leaves):
            raise ValueError(f"parts of {observation_space} would have the same name: {', '.join(self.leaves)}")

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for a batch."""
        output, masks, state = self.output_of(inputs)
        action = self.policy.choose(output, *masks)
        outputs = {"action": self.in_space(action)}
        if self.has_memory:
            next_states = zip(self.states, leaves(state_after(self.policy, state, action)), strict=True)
            outputs |= {f"next_{name}": tensor for name, tensor in next_states}
        return outputs

    def output_of(self, inputs: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], Any]:
        """The policy's output `(B, n)`, the mask of legal actions if any, and the next state but for the action."""
        parts = [inputs[name] for name in self.leaves]
        parts = [part.float() if part.dtype == torch.float64 else part for part in parts]  # as an agent sees them
        observation = unflatten(self.observation_space, parts)
        masks = [inputs["action_mask"]] if self.takes_mask else []
        if not masks and self.observed_width:
            masks = [observed_mask(observation, self.observed_width)]
        if not self.has_memory:
            return self.policy(observation)[0], masks, None
        remaining = iter([inputs[name] for name in self.states])
        state = mapped(self.first_state, lambda _: next(remaining))
        observation = mapped(observation, lambda leaf: leaf[:, None])  # (B, 1, ...)
        output, state = self.policy(observation, state, inputs["episode_start"][:, None])
        return output[:, 0], masks, state

    def in_space(self, action: Tensor) -> Tensor:
        """Actions of a policy as actions of the space, as `agentlib.core.spaces.action_to_space` does it in numpy."""
        space = self.action_space
        dtype = torch.from_numpy(np.zeros(0, space.dtype)).dtype
        if not isinstance(space, spaces.Box):
            return (action + torch.from_numpy(np.array(getattr(space, "start", 0), np.int64))).to(dtype)
        wide = torch.float32 if dtype in (torch.float16, torch.float32) else torch.float64
        low, high = (torch.from_numpy(np.array(side)).to(wide) for side in (space.low, space.high))
        wanted = action.to(wide)
        return (wanted if dtype.is_floating_point else wanted.round()).clamp(low, high).to(dtype)

    def example(self, batch: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Random inputs at the start of episodes."""
        generator = np.random.default_rng(whole("seed", seed))
        pairs = zip(self.leaves, leaf_spaces(self.observation_space), strict=True)
        arrays = {name: _drawn(generator, leaf, batch) for name, leaf in pairs}
        if self.takes_mask:
            masks = [_drawn_mask(generator, size, batch) for size in choices(self.action_space)]
            arrays["action_mask"] = np.concatenate(masks, 1)
        if self.has_memory:
            arrays["episode_start"] = np.ones(batch, bool)
            firsts = zip(self.states, leaves(self.first_state), strict=True)
            arrays |= {name: np.zeros((batch, *first.shape[1:]), first.numpy().dtype) for name, first in firsts}
        return arrays


def names_of(tree: Any, name: str) -> list[str]:
    """Names of the leaves of a space, or of a state, by where they are; None has none."""
    if tree is None:
        return []
    inside = tree.spaces if isinstance(tree, spaces.Dict | spaces.Tuple) else tree
    if isinstance(inside, dict):
        parts = list(inside.items())
    elif isinstance(inside, list | tuple):
        parts = list(zip(getattr(inside, "_fields", range(len(inside))), inside, strict=True))
    else:
        return [name]
    return [found for key, part in parts for found in names_of(part, f"{name}.{key}")]


def _drawn(generator: np.random.Generator, leaf: Leaf, batch: int) -> NDArray[Any]:
    """Random values of a leaf, of a usual size where its bounds say nothing of it."""
    shape, dtype = (batch, *leaf_shape(leaf)), np.dtype(leaf.dtype)
    if isinstance(leaf, spaces.MultiBinary):
        return generator.integers(0, 2, shape).astype(dtype)
    if not isinstance(leaf, spaces.Box):
        count = leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec
        return np.asarray(leaf.start + generator.integers(0, count, shape)).astype(dtype)
    low, high = leaf.low.astype(np.float64), leaf.high.astype(np.float64)
    near = high / 2.0 - low / 2.0 < USUAL
    inside = generator.uniform(np.where(near, low, 0.0), np.where(near, high, 1.0), shape)
    values = np.where(near, inside, np.clip(generator.normal(size=shape), low, high))
    return (values if dtype.kind == "f" else np.rint(values)).astype(dtype)


def _drawn_mask(generator: np.random.Generator, size: int, batch: int) -> NDArray[np.bool_]:
    """Masks `(B, size)` with at least one legal action each."""
    mask = generator.random((batch, size)) < 0.5
    mask[np.arange(batch), generator.integers(0, size, batch)] = True
    return mask
