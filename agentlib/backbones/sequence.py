"""An encoder of single observations, and a network with memory on what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Observation, SequenceBackbone, State
from agentlib.core.names import close_matches
from agentlib.core.trees import leaves, mapped


class AfterAction(NamedTuple):
    """Observations with the actions that led to them, for networks that read both."""

    observation: Observation
    """`(B, T, *shape)` in each leaf."""
    previous_action: Tensor
    """`(B, T)` or `(B, T, *shape)`: the action before each observation; -1 (0 for real numbers) where there is none."""


class WithMemory(SequenceBackbone):
    """Each observation goes through an encoder, the features of all of them through a network with memory.

    With `previous_action` the memory also reads which action was taken last. On sequences it comes with the
    observations, in an `AfterAction`. While acting, when observations come one by one, it is part of the state, where
    `acted` puts it.

    Args:
        encoder: of one observation: an MLP, a CNN, `Nested` ...
        memory: a sequence backbone that reads the encoder's features, and the action beside them.
        previous_action: number of discrete actions, or the shape of real-valued ones; None to leave actions out.

    Raises:
        ValueError: the memory reads another width.
    """

    kind = "with_memory"

    def __init__(
        self,
        encoder: Backbone | nn.Module,
        memory: SequenceBackbone | nn.Module,
        previous_action: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        discrete = isinstance(previous_action, int) or previous_action is None
        self.previous_action = previous_action if discrete else tuple(previous_action)  # type: ignore[arg-type]
        width = int(encoder.feature_dim) + self.action_width  # type: ignore[arg-type]
        if getattr(memory, "input_dim", width) != width:
            raise ValueError(
                f"encoder and action have {width} features, the memory reads {memory.input_dim}: build it with "
                f"input_dim={width}"
            )
        if getattr(memory, "bidirectional", False):
            raise ValueError("a bidirectional network sees the future: it cannot be the memory of something that acts")
        self.encoder = encoder
        self.memory: Any = memory
        self.feature_dim = int(memory.feature_dim)  # type: ignore[arg-type]

    @property
    def action_width(self) -> int:
        """Numbers that stand for an action."""
        if isinstance(self.previous_action, int):
            return self.previous_action
        return 0 if self.previous_action is None else torch.Size(self.previous_action).numel()

    def no_action(self, batch_size: int) -> Tensor:
        """The value where no action was taken yet: -1, which is none of the actions; 0 for real numbers."""
        like = next(self.parameters())
        if isinstance(self.previous_action, int):
            return torch.full((batch_size,), -1, device=like.device)
        return like.new_zeros(batch_size, *(self.previous_action or ()))

    def initial_state(self, batch_size: int) -> State:
        state = self.memory.initial_state(batch_size)
        return state if self.previous_action is None else (state, self.no_action(batch_size))

    def acted(self, state: State, action: Tensor) -> State:
        """The state once these actions `(B, ...)` were taken."""
        return state if self.previous_action is None else (state[0], action)

    def encode(
        self, observation: Observation, state: State | None, episode_start: Tensor | None
    ) -> tuple[Tensor, State]:
        """The inputs of the memory `(B, T, n)`, and its own state."""
        seen, previous = observation if isinstance(observation, AfterAction) else (observation, None)
        batch, steps = leaves(seen)[0].shape[:2]
        state = self.initial_state(batch) if state is None else state
        features = per_step(self.encoder, seen)  # (B, T, n)
        if self.previous_action is None:
            return features, state
        if previous is None:
            if steps > 1:
                raise ValueError(
                    "this network reads the actions before each of several observations: give it "
                    "AfterAction(observation, previous_action)"
                )
            previous = state[1][:, None]  # (B, 1, ...)
            if episode_start is not None:
                none = self.no_action(batch)[:, None]
                begins = episode_start.reshape(batch, 1, *[1] * (previous.dim() - 2))
                previous = torch.where(begins, none, previous)
        if isinstance(self.previous_action, int):
            action = previous[..., None] == torch.arange(self.previous_action, device=features.device)
        else:
            action = previous.flatten(2)
        return torch.cat([features, action.to(features.dtype)], -1), state[0]

    def forward(  # type: ignore[override]
        self, observation: Observation, state: State | None = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, State]:
        inputs, inner = self.encode(observation, state, episode_start)
        features, inner = self.memory(inputs, inner, episode_start)
        return features, inner if self.previous_action is None else (inner, self.no_action(features.shape[0]))

    def maps(
        self, observation: Observation, state: State | None = None, episode_start: Tensor | None = None
    ) -> list[Tensor]:
        """The inputs of the memory `(B, T, n)`, and its own maps."""
        inputs, inner = self.encode(observation, state, episode_start)
        return [inputs, *self.memory.maps(inputs, inner, episode_start)]

    def observe(self, observation: Observation) -> None:
        if hasattr(self.encoder, "observe"):
            self.encoder.observe(observation)  # type: ignore[operator]


class WholeSequence(Backbone):
    """Sequences as single examples: the features of the last step, or the mean over all, of a network with memory.

    Args:
        memory: a sequence backbone; it reads each sequence from its initial state on.
        pool: "last" or "mean".

    Raises:
        ValueError: the network has no memory, or an unknown pool.
    """

    kind = "whole_sequence"

    def __init__(self, memory: SequenceBackbone | nn.Module, pool: str = "last") -> None:
        super().__init__()
        if not getattr(memory, "is_sequence", False):
            raise ValueError(f"a {type(memory).__name__} has no memory, and reads no sequences")
        if pool not in ("last", "mean"):
            raise ValueError(f"unknown pool {pool!r}{close_matches(pool, ('last', 'mean'))}")
        self.memory: Any = memory
        self.pool, self.feature_dim = pool, int(memory.feature_dim)  # type: ignore[arg-type]

    def forward(self, observation: Observation) -> Tensor:
        """Features `(B, feature_dim)` of sequences `(B, T, ...)`."""
        features: Tensor = self.memory(observation)[0]
        return features[:, -1] if self.pool == "last" else features.mean(1)

    def maps(self, observation: Observation) -> list[Tensor]:
        """Those of the network with memory, `(B, T, ...)` each."""
        return self.memory.maps(observation)  # type: ignore[no-any-return]

    def observe(self, observation: Observation) -> None:
        if hasattr(self.memory, "observe"):
            self.memory.observe(mapped(observation, lambda leaf: leaf.flatten(0, 1)))


def per_step(encoder: nn.Module, observation: Observation) -> Tensor:
    """The features `(B, T, n)` of each of the observations `(B, T, ...)`, by an encoder of single ones."""
    features: Tensor = encoder(mapped(observation, lambda leaf: leaf.flatten(0, 1)))
    return features.unflatten(0, leaves(observation)[0].shape[:2])  # type: ignore[no-any-return]
