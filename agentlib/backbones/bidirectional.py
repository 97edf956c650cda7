"""Two stacks of LSTMs that read a text, one from each end, and a learned mixture of their layers: ELMo's network.

    h_j(t) = [forward state of layer j at t; backward state of layer j at t],    h_0 the embedding, twice
    ELMo(t) = gamma sum_j softmax(s)_j h_j(t)                      (Peters et al. 2018, arXiv:1802.05365, equation 1)

The forward states know nothing of what follows t, and the backward ones nothing of what stands before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.recurrent import LSTM


class BidirectionalLSTM(Backbone):
    """Reads tokens `(B, T)` from both ends; the features `(B, 2 dim)` are the mean of the mixture over the tokens.

    Args:
        vocabulary: number of tokens.
        dim: width of the embedding, and of the states of each direction.
        layers: of each direction; those above the first add to what they read.
        dropout: of what each layer reads.
    """

    kind = "bidirectional_lstm"

    def __init__(self, vocabulary: int, dim: int = 128, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocabulary, self.dim, self.layers, self.feature_dim = vocabulary, dim, layers, 2 * dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.forwards, self.backwards = (nn.ModuleList(LSTM(dim, dim) for _ in range(layers)) for _ in range(2))
        self.dropped = nn.Dropout(dropout)
        self.scores, self.gamma = nn.Parameter(torch.zeros(layers + 1)), nn.Parameter(torch.ones(()))

    @property
    def dropout(self) -> float:
        """The rate."""
        return self.dropped.p

    def directions(self, tokens: Tensor) -> list[list[Tensor]]:
        """Of each direction, forward first, the embedding and the states `(B, T, dim)` of each layer."""
        tokens = tokens.long()
        found: list[list[Tensor]] = []
        for layers, is_turned in ((self.forwards, False), (self.backwards, True)):
            h: Tensor = self.embedding(tokens.flip(1) if is_turned else tokens)
            states = [h]
            for number, layer in enumerate(layers):
                read, _ = layer(self.dropped(h))
                h = h + read if number else read
                states.append(h)
            found.append([state.flip(1) if is_turned else state for state in states])
        return found

    def maps(self, observation: Tensor) -> list[Tensor]:
        """Both directions `(B, T, 2 dim)` side by side, the embedding first, and last the mixture."""
        layers = [torch.cat(pair, -1) for pair in zip(*self.directions(observation), strict=True)]
        shares = self.scores.softmax(0)
        mixture = self.gamma * sum(share * layer for share, layer in zip(shares, layers, strict=True))
        return [*layers, mixture]

    def forward(self, observation: Tensor) -> Tensor:
        return self.maps(observation)[-1].mean(1)
