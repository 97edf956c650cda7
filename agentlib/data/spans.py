"""A text with spans cut out, and the spans (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4).

    text        a b c d e f g h
    source      a b <0> e f g <1> </s>          the text, with a sentinel in place of each span
    target      <s> <0> c d <1> h </s>          the spans, each behind its sentinel

Of a text of n tokens m = round(density n) are cut out, in k = round(m / mean length) spans, which with the pieces
between them are drawn from all divisions alike. All sources have n - m + k + 1 tokens, and all targets m + k + 1 behind
`<s>`: batches have one shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.source import Source
from agentlib.data.parallel import END, PAD, SPECIAL, START, ParallelBatch
from agentlib.data.text import Text
from agentlib.data.tokens import Tokenizer

SENTINELS = tuple(f"<{number}>" for number in range(100))
"""They follow `SPECIAL` in a vocabulary."""
WITH_SENTINELS = (*SPECIAL, *SENTINELS)
FIRST = len(SPECIAL)
"""The number of the first sentinel."""
BLANK = "___"
"""In a text, what is to be filled in."""
Numbers = NDArray[Any]


def spans_in(length: int, density: float, mean_length: float) -> tuple[int, int]:
    """The tokens of a text of `length` that are cut out, and the number of spans."""
    cut = min(max(round(length * density), 1), length - 1)
    return cut, min(max(round(cut / mean_length), 1), length - cut)


def side_lengths(length: int, density: float, mean_length: float) -> tuple[int, int]:
    """The tokens of source and target of a text of `length`, their ends among them, `<s>` not."""
    cut, spans = spans_in(length, density, mean_length)
    return length - cut + spans + 1, cut + spans + 1


def longest_text(most: int, density: float, mean_length: float) -> int:
    """The tokens of the longest text of which no side has more than `most`.

    Raises:
        ValueError: there is none, or it has more spans than there are sentinels.
    """
    length = 1
    while max(side_lengths(length + 1, density, mean_length)) <= most:
        length += 1
    spans = spans_in(length, density, mean_length)[1] if length > 1 else 0
    if not 0 < spans <= len(SENTINELS):
        raise ValueError(f"a max_length of {most} has room for {spans} spans, and there are 1 to {len(SENTINELS)}: "
                         "choose another one, or other spans")  # fmt: skip
    return length


def drawn_spans(n: int, length: int, density: float, mean_length: float, generator: Generator) -> Numbers:
    """Which tokens of n texts are cut out, `(n, length)` bool; no text begins with a span."""
    cut, spans = spans_in(length, density, mean_length)

    def divided(total: int) -> Numbers:  # into `spans` parts, each at least 1
        edges = np.sort(generator.random((n, total - 1)).argsort(1)[:, : spans - 1], 1) + 1
        return np.diff(edges, axis=1, prepend=0, append=total)

    lengths = np.stack([divided(length - cut), divided(cut)], 2)  # (n, spans, 2): by turns
    return np.repeat(np.tile([False, True], n * spans), lengths.ravel()).reshape(n, length)


def corrupted(tokens: Numbers, is_cut: Numbers) -> tuple[Numbers, Numbers]:
    """Sources `(n, S)` and targets `(n, T + 1)` of texts `(n, L)`, of which as many tokens and spans are cut each."""
    begins = is_cut & ~np.pad(is_cut[:, :-1], ((0, 0), (1, 0)))
    n, sentinels = len(tokens), FIRST - 1 + begins.cumsum(1)
    source = np.where(begins, sentinels, tokens)[~is_cut | begins].reshape(n, -1)
    target = np.stack([sentinels, tokens], 2)[np.stack([begins, is_cut], 2)].reshape(n, -1)
    start, end = np.full((n, 1), START), np.full((n, 1), END)
    return np.concatenate([source, end], 1), np.concatenate([start, target, end], 1)


def with_blanks(text: str, tokenizer: Tokenizer) -> list[int]:
    """The source of a text with `___` in place of its spans.

    Raises:
        ValueError: it has more of them than there are sentinels.
    """
    first, *pieces = text.split(BLANK)
    if len(pieces) > len(SENTINELS):
        raise ValueError(f"a text has {len(pieces)} blanks, more than {len(SENTINELS)}: part it")
    found = tokenizer.encode(first).tolist()
    for number, piece in enumerate(pieces):
        found += [FIRST + number, *tokenizer.encode(piece).tolist()]
    return [*found, END]


def spans_of(target: Sequence[int]) -> dict[int, list[int]]:
    """The spans in a target, by their sentinels; of a sentinel that is there twice the later one."""
    found, span = dict[int, list[int]](), list[int]()
    for token in map(int, target):
        if token == END:
            break
        if FIRST <= token < FIRST + len(SENTINELS):
            span = found[token] = []
        elif token not in (PAD, START):
            span.append(token)
    return found


def restored(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """The tokens of the text, the inverse of `corrupted`; a span that the target lacks is empty."""
    spans, found = spans_of(target), list[int]()
    for token in map(int, source):
        if token == END:
            break
        is_sentinel = FIRST <= token < FIRST + len(SENTINELS)
        found += spans.get(token, []) if is_sentinel else [token]
    return found


class CorruptedSpans(Source):
    """Pieces of a text from places that are drawn at random, with spans cut out.

    Args:
        text: the text, its tokenizer with `WITH_SENTINELS`; it stays where it is, and only batches go to a device.
        max_length: tokens of a source and of a target, at most.
        batch_size: pieces per batch.
        density: share of the tokens that are cut out.
        mean_length: of the spans, in tokens.
        seed: of places and spans.

    Raises:
        ValueError: no piece fits, the text is shorter than one, or its tokenizer has other special tokens.
    """

    source: Tensor
    target: Tensor

    def __init__(
        self,
        text: Text,
        max_length: int,
        batch_size: int,
        density: float = 0.15,
        mean_length: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if text.tokenizer.special != WITH_SENTINELS:
            raise ValueError(f"the tokenizer of spans begins with {' '.join(SPECIAL)} and {len(SENTINELS)} sentinels")
        self.text, self.spans = text, (density, mean_length)
        self.steps = np.arange(longest_text(max_length, density, mean_length))
        for name, table in zip(
            ("source", "target"), self.drawn(text, batch_size, np.random.default_rng(0)), strict=True
        ):
            self.register_buffer(name, torch.from_numpy(table))

    def drawn(self, text: Text, n: int, generator: Generator) -> tuple[Numbers, Numbers]:
        """Sources and targets of n pieces of a text, as `corrupted` gives them.

        Raises:
            ValueError: the text is shorter than a piece.
        """
        length = len(self.steps)
        if len(text) < length:
            raise ValueError(f"the text has {len(text)} tokens, and a piece {length}: give more text, or a shorter "
                             "max_length")  # fmt: skip
        starts = generator.integers(len(text) - length + 1, size=n)
        tokens = text.tokens[starts[:, None] + self.steps].astype(np.int64)
        return corrupted(tokens, drawn_spans(n, length, *self.spans, generator))

    def fingerprint(self) -> str:
        return self.text.digest

    def advance(self) -> None:
        source, target = self.drawn(self.text, len(self.source), self.generator)
        self.source.copy_(torch.from_numpy(source))
        self.target.copy_(torch.from_numpy(target))

    def sample(self) -> ParallelBatch:
        return ParallelBatch(self.source.clone(), self.target.clone(), self.batch_clock)
