"""BLEU and chrF by hand, and against sacrebleu."""

import math
from typing import Any

import numpy as np
import pytest

from agentlib.metrics.translation import bleu, chrf, words_13a

TEXT = "the a man Two dogs, run! over 1,000 3.5 x-ray 7-up (it's) &quot;new&quot; U.S. Straße über end. ; 50% /"
WORDS = TEXT.split()


def corpus(seed: int, n: int = 30) -> tuple[list[str], list[list[str]]]:
    """Translations that share words with two references each, some of them short or empty."""
    generator = np.random.default_rng(seed)
    references = [[" ".join(generator.choice(WORDS, generator.integers(1, 14))) for _ in range(2)] for _ in range(n)]
    translations = []
    for first, _ in references:
        words = first.split()
        kept = [w if generator.random() < 0.7 else str(generator.choice(WORDS)) for w in words]
        translations.append(
            " ".join(kept[: generator.integers(0, len(kept) + 1)] if generator.random() < 0.2 else kept)
        )
    return translations, references


def test_by_hand():
    """the x3, each counted twice at most: p_1 = 2/3 (Papineni et al. 2002, section 2.1), no pair of words matches."""
    found = bleu(["the the the the"], ["the cat is on the mat"])
    assert found == pytest.approx(100 * math.exp(1 - 6 / 4) * (2 / 4 / (2 * 3) / (4 * 2) / (8 * 1)) ** 0.25)
    assert bleu(["A man runs in the sun."], ["A man runs in the sun."]) == pytest.approx(100.0)
    assert chrf(["A man runs."], ["Aman runs."]) == pytest.approx(100.0)
    assert bleu(["none of it"], ["something else here"]) == chrf(["xyz"], ["abc"]) == 0.0
    precision, recall = (1 + 1) / 2, (2 / 3 + 1 / 2) / 2  # of "ab" in "abc": orders 1 and 2
    assert chrf(["ab"], ["abc"]) == pytest.approx(500 * precision * recall / (4 * precision + recall))
    assert words_13a("It's 1,000.5 (U.S.), x-ray 7-up.") == [
        *("It's", "1,000.5", "(", "U", ".", "S", ".", ")", ",", "x-ray", "7", "-", "up", "."),
    ]
    for score in (bleu, chrf):
        with pytest.raises(ValueError, match="2 translations have 1 references"):
            score(["a", "b"], ["a"])
        with pytest.raises(ValueError, match="0 translations"):
            score([], [])


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_they_equal_sacrebleu(seed, several):
    sacrebleu = pytest.importorskip("sacrebleu")
    translations, references = corpus(seed, n=30 if seed else 1)
    given: Any = references if several else [first for first, _ in references]
    theirs = [list(column) for column in zip(*references, strict=True)][: 2 if several else 1]
    assert bleu(translations, given) == pytest.approx(sacrebleu.corpus_bleu(translations, theirs).score, abs=1e-9)
    assert chrf(translations, given) == pytest.approx(sacrebleu.corpus_chrf(translations, theirs).score, abs=1e-9)
