"""A sequence of returns, observations and actions as tokens: the network of the decision transformer.

    ... R_{t-1}  o_{t-1}  a_{t-1}  R_t  o_t  ->  features of step t        (Chen et al. 2021, arXiv:2106.01345)

R_t is the return that is still wanted from step t on. The features are the decoder's output at o_t, which has read all
that stands before it, and not a_t. The three tokens of a step share an embedding of its number in the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Observation, SequenceBackbone
from agentlib.backbones.sequence import per_step
from agentlib.backbones.transformer import TransformerDecoder

MOST_STEPS = 4096
"""The longest context: a step takes memory with its square."""


class Prompt(NamedTuple):
    """Steps of an episode with the returns that were to come, to learn from."""

    observation: Observation
    """`(B, T, *shape)` in each leaf."""
    action: Tensor
    """`(B, T)` or `(B, T, *shape)`: what was done at each observation."""
    return_to_go: Tensor
    """`(B, T)`: the sum of rewards from the step on."""
    timestep: Tensor
    """`(B, T)`: the step's number in its episode, from 0."""


class Wanted(NamedTuple):
    """The memory while acting: the last `context - 1` steps, and the return that is still wanted."""

    features: Tensor
    """`(B, context - 1, n)`: the encoder's, of each observation."""
    action: Tensor
    """`(B, context - 1, ...)`."""
    return_to_go: Tensor
    """`(B, context - 1)`."""
    timestep: Tensor
    """`(B,)`: the number of the coming step."""
    wanted: Tensor
    """`(B,)`: the return that is wanted from the coming step on."""


class ReturnConditioned(SequenceBackbone):
    """Reads which return is wanted, besides observations and actions.

    To learn, it is given a `Prompt`. To act, it is given one observation after the other, and remembers the last
    `context` steps. At the start of an episode `target_return` is wanted, and from step to step less, by the reward:
    tell it by `rewarded`, or it takes `expected_reward` for each.

    Args:
        encoder: of one observation.
        actions: number of discrete actions, or the shape of real-valued ones.
        dim: width of the tokens.
        layers: of the decoder.
        heads: of each attention.
        context: steps that are read, the present one among them.
        max_timestep: step numbers that have an embedding; later steps get the last one.
        dropout: of the decoder.
        target_return: the return that is wanted of an episode.
        return_scale: returns are divided by this.
        expected_reward: the reward that is assumed of a step where none is given.
    """

    kind = "return_conditioned"

    def __init__(
        self,
        encoder: Backbone | nn.Module,
        actions: int | Sequence[int],
        dim: int = 128,
        layers: int = 3,
        heads: int = 1,
        context: int = 20,
        max_timestep: int = 1000,
        dropout: float = 0.1,
        target_return: float = 0.0,
        return_scale: float = 1.0,
        expected_reward: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < context <= MOST_STEPS or return_scale == 0.0:
            wanted = f"context is between 1 and {MOST_STEPS}, and return_scale is not 0"
            raise ValueError(f"{wanted}; they are {context} and {return_scale}")
        self.encoder, self.dim, self.feature_dim, self.context = encoder, int(dim), int(dim), int(context)
        self.actions = actions if isinstance(actions, int) else tuple(actions)
        self.layers, self.heads, self.max_timestep, self.dropout = layers, heads, int(max_timestep), float(dropout)
        self.target_return, self.return_scale = float(target_return), float(return_scale)
        self.expected_reward = float(expected_reward)
        self.of_return = nn.Linear(1, dim)
        self.of_observation = nn.Linear(int(encoder.feature_dim), dim)  # type: ignore[arg-type]
        width = self.actions if isinstance(self.actions, int) else torch.Size(self.actions).numel()
        self.of_action = nn.Linear(width, dim)
        self.of_timestep = nn.Embedding(self.max_timestep, dim)
        nn.init.normal_(self.of_timestep.weight, std=0.02)
        self.norm = nn.LayerNorm(dim)
        self.decoder = TransformerDecoder(
            dim, dim, layers, heads, positions="none", window=3 * self.context, dropout=dropout
        )

    def initial_state(self, batch_size: int) -> Wanted:
        like, past = self.of_timestep.weight, self.context - 1
        shape = () if isinstance(self.actions, int) else self.actions
        action = like.new_zeros(batch_size, past, *shape)
        return Wanted(
            like.new_zeros(batch_size, past, self.of_observation.in_features),
            action.long() if isinstance(self.actions, int) else action,
            like.new_zeros(batch_size, past),
            torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            like.new_full((batch_size,), self.target_return),
        )

    def forward(  # type: ignore[override]
        self, observation: Observation, state: Wanted | None = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Wanted | None]:
        """Features `(B, T, dim)` of a prompt; or `(B, 1, dim)` of one observation, and the next state.

        In a prompt, `episode_start (B, T)` is true at the first step of each row that is not padding.
        """
        if isinstance(observation, Prompt):
            seen = per_step(self.encoder, observation.observation)
            prompt = (observation.action, observation.return_to_go, observation.timestep)
            return self.read(seen, *prompt, episode_start), state
        seen = per_step(self.encoder, observation)  # (B, 1, n)
        if seen.shape[1] > 1:
            raise ValueError("to act, give one observation at a time; to learn, give a Prompt")
        state = self.initial_state(seen.shape[0]) if state is None else state
        if episode_start is not None:
            begins = episode_start[:, 0]
            wanted = state.wanted.masked_fill(begins, self.target_return)
            state = state._replace(timestep=state.timestep.masked_fill(begins, 0), wanted=wanted)
        features = torch.cat([state.features, seen], 1)  # (B, context, n)
        action = torch.cat([state.action, torch.zeros_like(state.action[:, :1])], 1) if self.context > 1 else None
        return_to_go = torch.cat([state.return_to_go, state.wanted[:, None]], 1)
        back = torch.arange(1 - self.context, 1, device=seen.device)  # (context,)
        timestep = state.timestep[:, None] + back  # (B, context): negative where the episode had not begun
        first = back == -state.timestep.clamp(max=self.context - 1)[:, None]
        output = self.read(features, action, return_to_go, timestep.clamp(min=0), first)[:, -1:]
        upcoming = Wanted(
            features[:, 1:],
            state.action if action is None else action[:, 1:],
            return_to_go[:, 1:],
            state.timestep + 1,
            state.wanted - self.expected_reward,
        )
        return output, upcoming

    def maps(
        self, observation: Observation, state: Wanted | None = None, episode_start: Tensor | None = None
    ) -> list[Tensor]:
        """The features `(B, T, dim)` alone."""
        return [self(observation, state, episode_start)[0]]

    def read(
        self,
        features: Tensor,
        action: Tensor | None,
        return_to_go: Tensor,
        timestep: Tensor,
        episode_start: Tensor | None,
    ) -> Tensor:
        """The decoder's outputs `(B, T, dim)` at the observations; all arguments have the leading axes `(B, T)`.

        Nothing before an episode's start is read after it. The last action is not read at all.
        """
        batch, steps = features.shape[:2]
        when = self.of_timestep(timestep.clamp(max=self.max_timestep - 1))  # (B, T, dim)
        returns = self.of_return((return_to_go / self.return_scale)[..., None].to(features.dtype))
        done = torch.zeros_like(returns) if action is None else self.of_action(self._indicator(action, features.dtype))
        tokens = torch.stack([returns, self.of_observation(features), done], 2) + when[:, :, None]  # (B, T, 3, dim)
        tokens = self.norm(tokens).flatten(1, 2)  # (B, 3 T, dim)
        starts = None
        if episode_start is not None:
            starts = torch.zeros(batch, steps, 3, dtype=torch.bool, device=tokens.device)
            starts = torch.cat([episode_start[..., None], starts[..., 1:]], 2).flatten(1)  # (B, 3 T)
        outputs, _ = self.decoder(tokens, None, starts)
        return outputs[:, 1::3]  # type: ignore[no-any-return]

    def _indicator(self, action: Tensor, dtype: torch.dtype) -> Tensor:
        if isinstance(self.actions, int):
            return (action[..., None] == torch.arange(self.actions, device=action.device)).to(dtype)
        return action.flatten(2).to(dtype)

    def acted(self, state: Wanted, action: Tensor) -> Wanted:
        """The state once these actions `(B, ...)` were taken."""
        if self.context == 1:
            return state
        return state._replace(action=torch.cat([state.action[:, :-1], action[:, None].to(state.action.dtype)], 1))

    def rewarded(self, state: Wanted, reward: Tensor) -> Wanted:
        """The state once these rewards `(B,)` came, in place of the expected ones."""
        return state._replace(wanted=state.wanted + self.expected_reward - reward)

    def observe(self, observation: Observation) -> None:
        if hasattr(self.encoder, "observe"):
            self.encoder.observe(observation)  # type: ignore[operator]
