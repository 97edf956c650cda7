"""Pairs of pieces of a text, some of whose tokens are hidden."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.data.text import Text

SPECIAL = 3
"""Tokens behind those of a text's vocabulary: `<cls>` before a pair, `<sep>` behind each piece, and `<mask>`."""
SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1
"""Share of the tokens that are to be predicted, and what is in their place: `<mask>`, any token, or else themselves."""


class MaskedPairs(NamedTuple):
    """A batch of pairs of pieces."""

    inputs: Tensor
    """`(B, T)` int64, those of `tokens` with some of them replaced."""
    tokens: Tensor
    """`(B, T)` int64: `<cls>`, a piece, `<sep>`, another piece, `<sep>`."""
    chosen: Tensor
    """`(B, T)` bool: which are to be predicted."""
    is_next: Tensor
    """`(B,)` int64: 1 where the second piece follows the first in the text, 0 where it is from anywhere."""
    clock: Clock


def masked(tokens: Tensor, vocabulary: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Tokens with some replaced, and which are to be predicted, both `(B, T)` (Devlin et al. 2019, section 3.1).

    Of 15% of the tokens of a text 80% are masked, 10% are any token, and 10% stay; special tokens are never chosen.

    Args:
        tokens: `(B, T)`.
        vocabulary: tokens of the text; `<mask>` is two behind it.
        generator: of the draws; torch's default generator without it.
    """
    dice = torch.rand(2, *tokens.shape, dtype=torch.float32, device=tokens.device, generator=generator)
    chosen = (dice[0] < SHARE) & (tokens < vocabulary)
    anything = torch.randint(vocabulary, tokens.shape, device=tokens.device, generator=generator)
    there = torch.where(dice[1] < MASKED, vocabulary + 2, torch.where(dice[1] < MASKED + RANDOM, anything, tokens))
    return torch.where(chosen, there, tokens), chosen


def segment_pairs(text: Text, n: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Tokens `(n, 2 length + 3)` of pairs of pieces, and whether the second follows the first `(n,)`, for half of them.

    Args:
        text: where the pieces are from.
        n: pairs.
        length: tokens of a piece.
        generator: of the places.

    Raises:
        ValueError: the text is not longer than two pieces.
    """
    if len(text) <= 2 * length:
        raise ValueError(f"the text has {len(text)} tokens, too few for two pieces of {length}: give more text, or a "
                         "shorter context_length")  # fmt: skip
    first = generator.integers(len(text) - 2 * length + 1, size=n)
    is_next = generator.integers(2, size=n)
    second = np.where(is_next, first + length, generator.integers(len(text) - length + 1, size=n))
    size, steps = text.tokenizer.size, np.arange(length)
    cls, sep = np.full((n, 1), size), np.full((n, 1), size + 1)
    a, b = (text.tokens[starts[:, None] + steps].astype(np.int64) for starts in (first, second))
    return torch.from_numpy(np.concatenate([cls, a, sep, b, sep], 1)), torch.from_numpy(is_next)


class MaskedWindows(Source):
    """Pairs of pieces of a text from places that are drawn at random, with tokens hidden at random in `sample`.

    Args:
        text: the text; it stays where it is, and only pairs go to a device.
        length: tokens of a piece.
        batch_size: pairs per batch.
        seed: of places and masks.

    Raises:
        ValueError: the text is not longer than two pieces.
    """

    tokens: Tensor
    is_next: Tensor

    def __init__(self, text: Text, length: int, batch_size: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.text, self.length, self.vocabulary = text, length, text.tokenizer.size
        tokens, is_next = segment_pairs(text, batch_size, length, np.random.default_rng(0))
        self.register_buffer("tokens", tokens)
        self.register_buffer("is_next", is_next)

    def fingerprint(self) -> str:
        return self.text.digest

    def advance(self) -> None:
        tokens, is_next = segment_pairs(self.text, len(self.tokens), self.length, self.generator)
        self.tokens.copy_(tokens)
        self.is_next.copy_(is_next)

    def sample(self) -> MaskedPairs:
        inputs, chosen = masked(self.tokens, self.vocabulary)
        return MaskedPairs(inputs, self.tokens.clone(), chosen, self.is_next.clone(), self.batch_clock)
