"""Recurrent networks that read one sequence and write another, with Luong's attention or without.

    score(h_t, m_s) = h_t . m_s   (dot),   h_t . W m_s   (general),   v . tanh(W [h_t; m_s])   (concat)
    c_t = sum_s softmax_s(score(h_t, m_s)) m_s,     features = tanh(W_c [c_t; h_t])

m_s are an encoder's features, h_t the decoder's state after it has read token t (Luong et al. 2015, arXiv:1508.04025,
global attention). Without attention the features are h_t, and all that is known of the source is the state in which the
decoder begins, the encoder's last one (Sutskever et al. 2014, arXiv:1409.3215).

Of another encoder, such as that of pictures, m_s are the tokens, and the decoder begins in tanh(W mean_s m_s + b) (Xu
et al. 2015, arXiv:1502.03044, with one layer).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone, State
from agentlib.backbones.recurrent import GRU, LSTM, Recurrent
from agentlib.backbones.specs import Described
from agentlib.core.names import close_matches, look_up
from agentlib.core.trees import mapped

Attention = Literal["none", "dot", "general", "concat"]
CELLS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU}


class LuongAttention(nn.Module):
    """Reads a memory by the formulas above.

    Args:
        dim: width of queries and memory.
        score: "dot", "general" or "concat".
    """

    def __init__(self, dim: int, score: str = "general") -> None:
        super().__init__()
        self.score = score
        self.inner = nn.Linear(dim, dim, bias=False) if score == "general" else None
        self.query, self.key, self.weight = None, None, None
        if score == "concat":
            self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
            self.weight = nn.Linear(dim, 1, bias=False)
        self.output = nn.Linear(2 * dim, dim, bias=False)

    def scores(self, query: Tensor, memory: Tensor) -> Tensor:
        """`(B, T, S)` of queries `(B, T, dim)` and a memory `(B, S, dim)`."""
        if self.query is not None and self.key is not None and self.weight is not None:
            both = self.query(query)[:, :, None] + self.key(memory)[:, None]  # (B, T, S, dim)
            return self.weight(both.tanh())[..., 0]  # type: ignore[no-any-return]
        return query @ (memory if self.inner is None else self.inner(memory)).transpose(1, 2)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(B, T, dim)`, and the weights `(B, T, S)`; `mask (B, S)` is False where the memory is padding."""
        weights = self.scores(query, memory).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        return self.output(torch.cat([weights @ memory, query], -1)).tanh(), weights


class RecurrentEncoderDecoder(Described):
    """An encoder that reads in both directions, and a decoder that begins in its last state.

    Args:
        vocabulary: tokens of source and target.
        dim: width of embeddings, of the decoder's state, and of both directions of the encoder's together.
        layers: of each.
        attention: "dot", "general", "concat" or "none".
        dropout: of embeddings, of what each layer reads, and of the features.
        cell: "lstm" or "gru".
        encoder: a network whose `maps` end in tokens `(B, S, dim)`, in place of the one that reads in both directions.

    Raises:
        ValueError: an odd width of an encoder in both directions, another width than the encoder's, or an unknown
            attention or cell.
    """

    kind = "recurrent_encoder_decoder"

    def __init__(
        self,
        vocabulary: int,
        dim: int = 256,
        layers: int = 1,
        attention: Attention = "general",
        dropout: float = 0.0,
        cell: str = "lstm",
        encoder: Backbone | None = None,
    ) -> None:
        super().__init__()
        if attention not in get_args(Attention):
            raise ValueError(f"unknown attention {attention!r}{close_matches(attention, get_args(Attention))}")
        if encoder is None and dim % 2:
            raise ValueError(f"the two directions of the encoder share its width, which must be even, not {dim}")
        self.vocabulary, self.dim, self.feature_dim, self.layers = vocabulary, dim, dim, layers
        self.attention, self.cell, self.encoder = attention, cell, encoder
        kind = look_up("cell", cell, CELLS)
        self.source_embedding = nn.Embedding(vocabulary, dim) if encoder is None else None
        self.target_embedding = nn.Embedding(vocabulary, dim)
        # Of one layer each, so that dropout can stand between them.
        self.encoders = nn.ModuleList(
            kind(dim, dim // 2, bidirectional=True) for _ in range(layers * (encoder is None))
        )
        self.first = None if encoder is None else nn.Linear(dim, layers * kind.parts * dim)
        if encoder is not None and encoder.feature_dim != dim:
            raise ValueError(f"encoder and decoder have one width, not {encoder.feature_dim} and {dim}")
        self.decoders = nn.ModuleList(kind(dim, dim) for _ in range(layers))
        self.luong = None if attention == "none" else LuongAttention(dim, attention)
        self.dropped = nn.Dropout(dropout)

    @property
    def dropout(self) -> float:
        """The rate."""
        return self.dropped.p

    def read(self, source: Tensor, source_mask: Tensor | None) -> tuple[Tensor, Tensor, tuple[State, ...]]:
        """The memory `(B, S, dim)` of tokens `(B, S)`, its mask, and the states of the decoder's layers.

        These are `(B, 1, dim)` each. In place of tokens there may be their vectors `(B, S, dim)`, and of another
        encoder there is what that reads.
        """
        if self.encoder is not None and self.first is not None:
            memory = self.encoder.maps(source)[-1]
            parts = self.first(memory.mean(1, keepdim=True)).tanh().split(self.dim, -1)  # each (B, 1, dim)
            n = len(parts) // self.layers
            begun = [parts[i] if n == 1 else parts[n * i : n * i + n] for i in range(self.layers)]
            return memory, _all_of(memory) if source_mask is None else source_mask, tuple(begun)
        memory = source if source.dim() == 3 else self.source_embedding(source)  # type: ignore[misc]
        source_mask = _all_of(memory) if source_mask is None else source_mask
        states: list[State] = []
        for encoder in self.encoders:
            memory, last = encoder(self.dropped(memory), lengths=source_mask.sum(1))
            states.append(mapped(last, lambda side: side.flatten(1)[:, None]))  # both directions, side by side
        return memory, source_mask, tuple(states)

    def write(
        self, tokens: Tensor, states: tuple[State, ...], memory: Tensor, source_mask: Tensor
    ) -> tuple[Tensor, Tensor | None, tuple[State, ...]]:
        """Features `(B, T, dim)` after each of tokens `(B, T)`, attention `(B, T, S)`, and the states at the end."""
        features: Tensor = self.target_embedding(tokens)
        later: list[State] = []  # `list[State]()` breaks the graph of `torch.compile`
        weights = None
        for decoder, state in zip(self.decoders, states, strict=True):
            features, state = decoder(self.dropped(features), state)
            later.append(state)
        if self.luong is not None:
            features, weights = self.luong(features, memory, source_mask)
        return self.dropped(features), weights, tuple(later)

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Features `(B, T, dim)` after each of the target's tokens `(B, T)`, of which each reads those before it."""
        memory, source_mask, states = self.read(source, source_mask)
        return self.write(target, states, memory, source_mask)[0]

    def weights(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The attention `(B, T, S)` by which the features after each of the target's tokens read the source.

        Raises:
            ValueError: there is no attention.
        """
        memory, source_mask, states = self.read(source, source_mask)
        _, weights, _ = self.write(target, states, memory, source_mask)
        if weights is None:
            raise ValueError('this network attends to nothing: it was built with attention="none"')
        return weights

    def begin(self, source: Tensor, source_mask: Tensor | None = None) -> Any:
        """The state before the first token of the target; a tree of tensors with the batch first."""
        memory, source_mask, states = self.read(source, source_mask)
        if self.luong is None:
            memory = memory[:, :0]  # it is not read again
        return states, memory, source_mask

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Features `(B, dim)` after one more token `(B,)`, and the next state."""
        states, memory, source_mask = state
        features, _, states = self.write(token[:, None], states, memory, source_mask)
        return features[:, 0], (states, memory, source_mask)


def _all_of(memory: Tensor) -> Tensor:
    """The mask `(B, S)` of a memory without padding."""
    return torch.ones_like(memory[..., 0], dtype=torch.bool)
