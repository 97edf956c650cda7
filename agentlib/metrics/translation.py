"""How near translations are to those of people: BLEU and chrF of a whole corpus, as sacrebleu computes them.

    BLEU = min(1, exp(1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4)       c, r words of translations, of references
    chrF = (1 + b^2) P R / (b^2 P + R),  b = 2                  P, R means over n-grams of 1 to 6 characters

p_n is the share of the corpus's n-grams that are in the references, each as often at most as there (Papineni et al.
2002, doi:10.3115/1073083.1073135). Where none of an order is, the share is 1 / (2 N), then 1 / (4 N), ... of the N.
chrF (Popović 2015, doi:10.18653/v1/W15-3049) leaves out spaces, and orders for which all sentences are too short. Both
are between 0 and 100, and neither is the mean over sentences.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

References = Sequence[str] | Sequence[Sequence[str]]
"""One reference for each translation, or several."""
MOST_WORDS, MOST_CHARACTERS, BETA = 4, 6, 2.0
"""The longest n-grams of BLEU and of chrF, and the weight of recall."""
SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])")
STOP_AFTER, STOP_BEFORE, DASH = (re.compile(p) for p in (r"([^0-9])([.,])", r"([.,])([^0-9])", r"([0-9])(-)"))
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def words_13a(text: str) -> list[str]:
    """The words and signs of a text, as NIST's script mteval-v13a parts them: 1,000 is one, and a stop a word."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in ENTITIES.items():
        text = text.replace(entity, sign)
    text = SYMBOL.sub(r" \1 ", f" {text} ")
    text = STOP_BEFORE.sub(r" \1 \2", STOP_AFTER.sub(r"\1 \2 ", text))
    return DASH.sub(r"\1 \2 ", text).split()


def bleu(translations: Sequence[str], references: References) -> float:
    """The BLEU of a corpus, cased, on detokenized text.

    Args:
        translations: one text each.
        references: for each translation a text, or several, of which the nearest in length counts for c / r.

    Raises:
        ValueError: their numbers differ, or there are none.
    """
    matched, found, length, wanted = [0] * MOST_WORDS, [0] * MOST_WORDS, 0, 0
    for translation, several in _paired(translations, references):
        ours, theirs = words_13a(translation), [words_13a(one) for one in several]
        length += len(ours)
        wanted += min((abs(len(words) - len(ours)), len(words)) for words in theirs)[1]
        for n in range(1, MOST_WORDS + 1):
            grams, most = _grams(ours, n), Counter[tuple[str, ...]]()
            for words in theirs:
                most |= _grams(words, n)
            matched[n - 1] += (grams & most).total()
            found[n - 1] += grams.total()
    if not any(matched) or 0 in found:
        return 0.0
    logs, missing = 0.0, 1.0
    for hits, all_of_them in zip(matched, found, strict=True):
        missing *= 1.0 if hits else 2.0
        logs += math.log(hits / all_of_them if hits else 1.0 / (missing * all_of_them))
    return 100.0 * math.exp(min(0.0, 1.0 - wanted / length) + logs / MOST_WORDS)


def chrf(translations: Sequence[str], references: References) -> float:
    """The chrF of a corpus; of several references for a translation, the one with the best score counts.

    Raises:
        ValueError: their numbers differ, or there are none.
    """
    total = [(0, 0, 0)] * MOST_CHARACTERS
    for translation, several in _paired(translations, references):
        counts = max((_character_counts(translation, one) for one in several), key=_f_score)
        total = [(a + x, b + y, c + z) for (a, b, c), (x, y, z) in zip(total, counts, strict=True)]
    return _f_score(total)


def _character_counts(translation: str, reference: str) -> list[tuple[int, int, int]]:
    """For each order the n-grams of both, and those that they share; none of the first where there is none to hit."""
    found = []
    for n in range(1, MOST_CHARACTERS + 1):
        ours, theirs = (_grams(list("".join(text.split())), n) for text in (translation, reference))
        found.append((ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()))
    return found


def _f_score(counts: list[tuple[int, int, int]]) -> float:
    shares = [(hits / ours, hits / theirs) for ours, theirs, hits in counts if ours and theirs]
    if not any(precision for precision, _ in shares):
        return 0.0
    precision, recall = (sum(side) / len(shares) for side in zip(*shares, strict=True))
    return float(100.0 * (1.0 + BETA**2) * precision * recall / (BETA**2 * precision + recall))


def _grams(parts: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(parts[start : start + n]) for start in range(len(parts) - n + 1))


def _paired(translations: Sequence[str], references: References) -> list[tuple[str, Sequence[str]]]:
    if not translations or len(translations) != len(references):
        raise ValueError(f"{len(translations)} translations have {len(references)} references: give one for each")
    several = [[one] if isinstance(one, str) else one for one in references]
    return list(zip(translations, several, strict=True))
