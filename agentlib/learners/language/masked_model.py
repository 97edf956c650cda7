"""A network that says which tokens were hidden, and whether one piece of a text follows another."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Described
from agentlib.data.masking import SPECIAL
from agentlib.data.tokens import Tokenizer, tokenizer_from_json


class MaskedLanguageModel(Described):
    """p(token at a place | all the others), and p(the second piece follows the first).

    Args:
        backbone: `TransformerEncoder(vocabulary=...)`, of the tokenizer's tokens and three more.
        tokenizer: as `Tokenizer.to_json` gives it.

    Raises:
        ValueError: the backbone gives no feature of each token, or has another vocabulary.
    """

    kind = "masked_language_model"

    def __init__(self, backbone: Backbone | nn.Module, tokenizer: dict[str, Any]) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.tokenizer = tokenizer
        size, known = self.text.size, getattr(backbone, "vocabulary", None)
        if known is None or not hasattr(backbone, "maps"):
            raise ValueError("a masked model has a network that reads tokens, such as transformer_encoder, not a "
                             f"{type(backbone).__name__}")  # fmt: skip
        if known != size + SPECIAL:
            raise ValueError(f"the network has a vocabulary of {known} tokens, and the tokenizer one of {size}, to "
                             f"which {SPECIAL} are added: give the tokenizer that it learned with")  # fmt: skip
        dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        widen = nn.Linear(dim, dim)
        self.transform = nn.Sequential(widen, nn.GELU(), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(size))
        self.pooler, self.next = nn.Linear(dim, dim), nn.Linear(dim, 2)
        for linear in (widen, self.pooler, self.next):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    @cached_property
    def text(self) -> Tokenizer:
        """The tokenizer."""
        return tokenizer_from_json(self.tokenizer)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, T, V)` of the token at each place, and `(B, 2)` of "from anywhere" and "next", of `(B, T)`."""
        features = self.backbone.maps(tokens)[-1]  # (B, T, dim)
        weight = self.backbone.embedding.content.weight[: len(self.bias)]
        logits = nn.functional.linear(self.transform(features), weight, self.bias)
        return logits, self.next(self.pooler(features[:, 0]).tanh())
