"""Transformers (Vaswani et al. 2017, arXiv:1706.03762): an encoder, and a decoder with memory.

    encoder     every step reads all steps:               h = LN(L_n(... L_1(E x + P)))
    decoder     step t reads steps t - window < s <= t
    rotary      the positions turn queries and keys, so that only distances count (Su et al. 2021, arXiv:2104.09864)

The decoder is a network with memory. Its state holds the keys and values of the last `window - 1` steps, so that a step
costs the same at any time, and step by step it computes what it computes for the whole sequence at once. As each layer
reads a window of the layer below, it sees `layers * (window - 1)` steps back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from agentlib.backbones.attention import KeyValue, Layer, Stack, sinusoids
from agentlib.backbones.base import Backbone, SequenceBackbone
from agentlib.core.names import close_matches

Positions = Literal["learned", "sinusoidal", "rotary", "none"]
Cache = tuple[Tensor, Tensor, Tensor]
"""A decoder's state: keys and values `(B, layers, heads, window - 1, d)`, and the steps that were read `(B,)`."""


class Embedding(nn.Module):
    """The steps of a sequence as vectors of one width, with learned or sinusoidal positions added.

    Contents and positions have the same size at the start, so that neither drowns the other.
    """

    def __init__(
        self,
        input_dim: int | None,
        vocabulary: int | None,
        dim: int,
        positions: Positions,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if positions not in get_args(Positions):
            raise ValueError(f"unknown positions {positions!r}{close_matches(positions, get_args(Positions))}")
        if (input_dim is None) == (vocabulary is None):
            raise ValueError("give input_dim, for steps that are vectors, or vocabulary, for tokens: one of them")
        self.input_dim, self.positions, self.max_length = input_dim, positions, max_length
        self.content = nn.Linear(input_dim, dim) if input_dim is not None else nn.Embedding(int(vocabulary or 0), dim)
        self.table = nn.Embedding(max_length, dim) if positions == "learned" else None
        for embedding in (self.content, self.table):
            if isinstance(embedding, nn.Embedding):
                nn.init.normal_(embedding.weight, std=0.5**0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """`(B, T, dim)` of vectors `(B, T, input_dim)`, tokens `(B, T)` or their embeddings, at positions `(B, T)`."""
        expected = "(B, T)" if self.input_dim is None else f"(B, T, {self.input_dim})"
        of_tokens = self.input_dim is None
        width = self.content.weight.shape[-1] if of_tokens else self.input_dim
        if not (of_tokens and x.dim() == 2) and (x.dim() != 3 or x.shape[-1] != width):
            raise ValueError(f"this transformer reads {expected}, not {tuple(x.shape)}")
        if self.table is not None and x.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence of {x.shape[1]} steps is longer than the {self.max_length} learned positions: raise "
                "max_length, or choose positions='rotary' or 'sinusoidal'"
            )
        h = x.to(self.content.weight.dtype) if x.dim() == 3 else x.long()
        if not of_tokens or x.dim() == 2:
            h = self.content(h)
        if self.table is not None:
            h = h + self.table(position)
        elif self.positions == "sinusoidal":
            h = h + sinusoids(position, h.shape[-1], h.dtype)
        return self.dropout(h)  # type: ignore[no-any-return]


class _Transformer(Backbone):
    """The arguments and the parts that encoder and decoder share."""

    def __init__(
        self,
        input_dim: int | None,
        dim: int,
        layers: int,
        heads: int,
        mlp_dim: int | None,
        vocabulary: int | None,
        positions: Positions,
        max_length: int,
        norm_first: bool,
        dropout: float,
        activation: str,
        second_order: bool,
        gradient_checkpointing: bool,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim, self.dim, self.feature_dim, self.vocabulary = input_dim, dim, dim, vocabulary
        self.layers, self.heads, self.mlp_dim = layers, heads, 4 * dim if mlp_dim is None else mlp_dim
        self.positions, self.max_length, self.norm_first = positions, max_length, norm_first
        self.dropout, self.activation, self.second_order, self.cross = dropout, activation, second_order, cross
        self.embedding = Embedding(input_dim, vocabulary, dim, positions, max_length, dropout)
        self.stack = Stack(
            [
                Layer(
                    dim,
                    heads,
                    self.mlp_dim,
                    cross=cross,
                    norm_first=norm_first,
                    dropout=dropout,
                    activation=activation,
                    second_order=second_order,
                )
                for _ in range(layers)
            ],
            gradient_checkpointing,
        )
        if positions == "rotary" and (dim // heads) % 2:
            raise ValueError(f"rotary positions turn pairs of numbers: dim / heads must be even, not {dim // heads}")

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.stack.gradient_checkpointing

    @property
    def reach(self) -> float:
        """Steps that are read at once, at most."""
        return self.max_length if self.positions == "learned" else math.inf


class TransformerEncoder(_Transformer):
    """Reads a whole sequence at once; the features are the mean of the tokens, or the first of them.

    Args:
        input_dim: numbers in one step; None for tokens.
        dim: width of the tokens.
        layers: one on top of the other.
        heads: of each attention; they divide the width.
        mlp_dim: hidden width of the MLPs; by default four times the width.
        vocabulary: number of tokens, for sequences `(B, T)` of whole numbers.
        positions: "learned", "sinusoidal", "rotary" or "none".
        max_length: learned positions.
        norm_first: pre-norm; otherwise post-norm.
        dropout: of embeddings, attention weights and branches.
        activation: of the MLPs.
        second_order: attention that can be differentiated twice.
        pool: "mean" or "first".
        gradient_checkpointing: to learn, keep the input of each layer alone, and compute the rest again: the same
            gradients in less memory, for about a third more work.
    """

    kind = "transformer_encoder"

    def __init__(
        self,
        input_dim: int | None = None,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        mlp_dim: int | None = None,
        vocabulary: int | None = None,
        positions: Positions = "learned",
        max_length: int = 512,
        norm_first: bool = True,
        dropout: float = 0.0,
        activation: str = "gelu",
        second_order: bool = False,
        pool: Literal["mean", "first"] = "mean",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            input_dim, dim, layers, heads, mlp_dim, vocabulary, positions, max_length, norm_first, dropout, activation,
            second_order, gradient_checkpointing,
        )  # fmt: skip
        if pool not in ("mean", "first"):
            raise ValueError(f"unknown pool {pool!r}{close_matches(pool, ('mean', 'first'))}")
        self.pool = pool

    def maps(self, observation: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The tokens `(B, T, dim)` after each layer; `mask (B, T)` is False where a step is padding."""
        position = torch.arange(observation.shape[1], device=observation.device).expand(observation.shape[:2])
        turned = position if self.positions == "rotary" else None
        read = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
        outputs, _ = self.stack(self.embedding(observation, position), read, position=turned)
        return outputs  # type: ignore[no-any-return]

    def forward(self, observation: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = self.maps(observation, mask)[-1]
        if self.pool == "first":
            return tokens[:, 0]
        if mask is None:
            return tokens.mean(1)
        count = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
        return tokens.masked_fill(~mask[..., None], 0.0).sum(1) / count


class TransformerDecoder(_Transformer, SequenceBackbone):
    """Reads step after step, and what came before through a window; the arguments are `TransformerEncoder`'s, and:

    Args:
        window: steps that a layer reads, the present one among them.
        cross: also read the tokens of an encoder, given as `memory`.
    """

    kind = "transformer_decoder"

    def __init__(
        self,
        input_dim: int | None = None,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        mlp_dim: int | None = None,
        vocabulary: int | None = None,
        positions: Positions = "rotary",
        max_length: int = 512,
        norm_first: bool = True,
        dropout: float = 0.0,
        activation: str = "gelu",
        second_order: bool = False,
        window: int = 64,
        cross: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            input_dim, dim, layers, heads, mlp_dim, vocabulary, positions, max_length, norm_first, dropout, activation,
            second_order, gradient_checkpointing, cross,
        )  # fmt: skip
        if window < 1:
            raise ValueError(f"a window has at least one step, not {window}")
        self.window = window

    @property
    def reach(self) -> float:
        """As `_Transformer` has it, within the window."""
        return min(self.window, super().reach)

    def initial_state(self, batch_size: int) -> Cache:
        keys = self.embedding.content.weight.new_zeros(
            batch_size, self.layers, self.heads, self.window - 1, self.dim // self.heads
        )
        return keys, keys.clone(), torch.zeros(batch_size, dtype=torch.int64, device=keys.device)

    def forward(  # type: ignore[override]
        self,
        observation: Tensor,
        state: Cache | None = None,
        episode_start: Tensor | None = None,
        memory: Tensor | Sequence[KeyValue] | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """As `SequenceBackbone` has it; `memory (B, S, dim)` and its `mask (B, S)` are an encoder's tokens.

        The memory may also be its keys and values for each layer, see `EncoderDecoder.begin`.
        """
        outputs, state = self.read(observation, state, episode_start, memory, memory_mask)
        return outputs[-1], state

    def maps(
        self, observation: Tensor, state: Cache | None = None, episode_start: Tensor | None = None
    ) -> list[Tensor]:
        """The tokens `(B, T, dim)` after each layer."""
        return self.read(observation, state, episode_start)[0]

    def whole(self, observation: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Tensor:
        """The features `(B, T, dim)` of sequences from their first step on, without a state: quicker to learn from.

        Raises:
            ValueError: the sequences are longer than the window, or a memory is missing, or given in vain.
        """
        self._require_memory(memory)
        steps = observation.shape[1]
        if steps > self.window:
            raise ValueError(f"a sequence of {steps} steps is longer than the window of {self.window}")
        position = torch.arange(steps, device=observation.device).expand(observation.shape[:2])
        outputs, _ = self.stack(
            self.embedding(observation, position),
            causal=True,
            position=position if self.positions == "rotary" else None,
            memory=memory,
            memory_mask=None if memory_mask is None else memory_mask[:, None, None, :],
        )
        return outputs[-1]  # type: ignore[no-any-return]

    def weights(self, observation: Tensor, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """The attention `(B, T, S)` to a memory `(B, S, dim)`, the mean of all layers and heads; as `whole` reads."""
        position = torch.arange(observation.shape[1], device=observation.device).expand(observation.shape[:2])
        reading: Any = {"causal": True, "position": position if self.positions == "rotary" else None}
        reading |= {"memory": memory, "memory_mask": None if memory_mask is None else memory_mask[:, None, None, :]}
        h, found = self.embedding(observation, position), list[Tensor]()
        for layer in self.stack.layers:
            found.append(layer.cross_weights(h, **reading).mean(1))  # type: ignore[operator]
            h, _ = layer(h, **reading)
        return torch.stack(found).mean(0)

    def read(
        self,
        observation: Tensor,
        state: Cache | None = None,
        episode_start: Tensor | None = None,
        memory: Tensor | Sequence[KeyValue] | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], Cache]:
        """The tokens `(B, T, dim)` after each layer, and the next state."""
        self._require_memory(memory)
        batch, steps = observation.shape[:2]
        first = state is None
        keys, values, count = self.initial_state(batch) if state is None else state
        mask, position = self._visible(count, steps, episode_start, keys.shape[3])
        past: list[KeyValue] | None = None
        if first:
            mask = mask[..., self.window - 1 :]  # there is nothing to read yet
        else:
            past = list(zip(keys.unbind(1), values.unbind(1), strict=True))
        causal = first and episode_start is None and steps <= self.window
        outputs, present = self.stack(
            self.embedding(observation, position),
            None if causal else mask,
            causal=causal,
            position=position if self.positions == "rotary" else None,
            past=past,
            memory=memory,
            memory_mask=None if memory_mask is None else memory_mask[:, None, None, :],
        )
        keys, values = (
            self._last(torch.stack(parts, 1), old if first else None)  # (B, layers, heads, window - 1, d)
            for parts, old in zip(zip(*present, strict=True), (keys, values), strict=True)
        )
        return outputs, (keys, values, position[:, -1] + 1)

    def _require_memory(self, memory: Tensor | Sequence[KeyValue] | None) -> None:
        if self.cross != (memory is not None):
            raise ValueError("a decoder with cross=True reads memory=..., one without does not")

    def _visible(self, count: Tensor, steps: int, episode_start: Tensor | None, slots: int) -> tuple[Tensor, Tensor]:
        """The mask of readable steps `(B, 1, T, slots + T)`, and their positions in episodes `(B, T)`."""
        step = torch.arange(steps, device=count.device)
        lag = step[:, None] - torch.arange(-slots, steps, device=count.device)  # (T, window - 1 + T): how long ago
        filled = torch.arange(slots, device=count.device) >= slots - count[:, None]  # (B, window - 1)
        written = torch.cat([filled, filled.new_ones(count.shape[0], steps)], 1)  # (B, window - 1 + T)
        if episode_start is None:
            position = count[:, None] + step
            same = written[:, None]  # (B, 1, window - 1 + T)
        else:
            episode = episode_start.cumsum(1)  # (B, T): 0 where the episode of the state goes on
            owner = torch.cat([episode.new_zeros(count.shape[0], slots), episode], 1)  # (B, window - 1 + T)
            same = (episode[..., None] == owner[:, None]) & written[:, None]  # (B, T, window - 1 + T)
            alone = (same[..., slots:] & (lag[:, slots:] >= 0)).sum(-1) - 1  # (B, T)
            position = alone + count[:, None] * (episode == 0)
        visible = same & (lag >= 0) & (lag < self.window)
        return visible[:, None], position

    def _last(self, present: Tensor, old: Tensor | None) -> Tensor:
        """The last steps of keys or values `(B, layers, heads, S, d)`, `window - 1` at most."""
        whole = present if old is None else torch.cat([old, present], 3)
        return whole[..., max(whole.shape[3] - (self.window - 1), 0) :, :]

    def trimmed(self, state: Cache, steps: int) -> Cache:
        """A state that holds `steps` steps, all that was read, and grows up to the window: quicker."""
        keys, values, count = state
        first = max(keys.shape[3] - steps, 0)
        return keys[..., first:, :], values[..., first:, :], count
