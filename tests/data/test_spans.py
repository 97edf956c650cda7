"""Spans that are cut out of a text: T5's lengths, their inverse, and where they are."""

import numpy as np
import pytest

from agentlib.data.parallel import END, SPECIAL, START
from agentlib.data.spans import (
    FIRST,
    SENTINELS,
    WITH_SENTINELS,
    CorruptedSpans,
    corrupted,
    drawn_spans,
    longest_text,
    restored,
    side_lengths,
    spans_in,
    with_blanks,
)
from agentlib.data.text import markov, text_of
from agentlib.data.tokens import Characters

TEXT = text_of([markov(3_000)], special=WITH_SENTINELS)


def test_the_lengths_are_those_of_the_paper():
    """T5's sources of 512 tokens are of 568 of the text, 85 of which are cut out in 28 spans; its targets have 114."""
    assert longest_text(512, 0.15, 3.0) == 568
    assert spans_in(568, 0.15, 3.0) == (85, 28)
    assert side_lengths(568, 0.15, 3.0) == (512, 114)
    assert longest_text(3, 0.15, 3.0) == 2


def test_an_example_by_hand():
    letters = Characters("abcdefgh", WITH_SENTINELS)
    tokens, is_cut = letters.encode("abcdefgh")[None].astype(np.int64), np.zeros((1, 8), bool)
    is_cut[0, [2, 3, 7]] = True
    source, target = corrupted(tokens, is_cut)
    a, b, c, d, e, f, g, h = tokens[0]
    assert source.tolist() == [[a, b, FIRST, e, f, g, FIRST + 1, END]]
    assert target.tolist() == [[START, FIRST, c, d, FIRST + 1, h, END]]
    assert with_blanks("ab___efg___", letters) == source[0].tolist()
    one, other = source[0].tolist(), target[0].tolist()
    assert letters.decode(restored(one, other)) == "abcdefgh"
    assert letters.decode(restored(one, other[:3])) == "abcefg"  # a span that is missing is empty


@pytest.mark.parametrize(
    ("length", "density", "mean"), [(40, 0.15, 3.0), (568, 0.15, 3.0), (9, 0.5, 1.0), (2, 0.9, 2.0)]
)
def test_source_and_target_make_up_the_text(length, density, mean):
    generator = np.random.default_rng(0)
    tokens = generator.integers(len(WITH_SENTINELS), 200, size=(20, length))
    is_cut = drawn_spans(20, length, density, mean, generator)
    cut, spans = spans_in(length, density, mean)
    source, target = corrupted(tokens, is_cut)
    assert (is_cut.sum(1) == cut).all()
    assert not is_cut[:, 0].any()
    assert (source.shape[1], target.shape[1] - 1) == side_lengths(length, density, mean)
    for text, one, other in zip(tokens, source, target, strict=True):
        assert restored(one, other) == text.tolist()
        order = [token - FIRST for token in one if FIRST <= token < FIRST + len(SENTINELS)]
        assert order == list(range(spans))


def test_all_divisions_are_alike():
    """Of six tokens three are cut, in two spans: two divisions of each three, each as frequent; 5 deviations."""
    is_cut = drawn_spans(20_000, 6, 0.5, 1.5, np.random.default_rng(0))
    patterns, counts = np.unique(is_cut, axis=0, return_counts=True)
    assert len(patterns) == 4
    assert np.abs(counts / 20_000 - 0.25).max() < 5 * (0.25 * 0.75 / 20_000) ** 0.5


def test_batches_are_pieces_of_the_text():
    source, letters = CorruptedSpans(TEXT, 24, 8, seed=3), TEXT.tokenizer.decode(TEXT.tokens)
    source.advance()
    batch = source.sample()
    assert batch.source.shape[1] <= 24
    for one, other in zip(batch.source, batch.target, strict=True):
        assert TEXT.tokenizer.decode(restored(one.tolist(), other.tolist())) in letters


def test_mistakes():
    with pytest.raises(ValueError, match="a max_length of 2 has room for 0 spans"):
        longest_text(2, 0.15, 3.0)
    with pytest.raises(ValueError, match="there are 1 to 100"):
        longest_text(4_000, 0.15, 3.0)
    with pytest.raises(ValueError, match="the text has 50 tokens, and a piece 72"):
        CorruptedSpans(text_of([markov(50)], special=WITH_SENTINELS), 66, 4)
    with pytest.raises(ValueError, match="and 100 sentinels"):
        CorruptedSpans(text_of([markov(50)], special=SPECIAL), 24, 4)
    with pytest.raises(ValueError, match="a text has 101 blanks, more than 100"):
        with_blanks("___" * 101, TEXT.tokenizer)
