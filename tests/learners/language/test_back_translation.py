"""Back-translation: true targets with drawn sources, true pairs before them, and what is gained by it."""

from typing import Any

import pytest
import torch

from agentlib.data.parallel import SPECIAL, ParallelText
from agentlib.data.tokens import Characters
from agentlib.learners.language.back_translation import back_translated
from agentlib.learners.language.seq2seq import Seq2Seq, Seq2SeqConfig
from agentlib.learners.language.translator import Translator

TRUE = ParallelText(["ab"], ["ba"])


def reverser() -> Translator:
    tokenizer, sizes = Characters("abcdef", SPECIAL), Seq2SeqConfig(embed_dim=8, n_layers=1, n_heads=1, max_length=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Translator(Seq2Seq.network(sizes, tokenizer.size), tokenizer.to_json(), 16).eval()


def test_targets_are_true_and_sources_are_drawn():
    model, texts = reverser(), ["abc", "fed", "aaaa"] * 5
    found = back_translated(model, texts, seed=3)
    kept = [text for text, source in zip(texts, _drawn(model, texts), strict=True) if source]
    assert found.target == kept
    assert found.source == [source for source in _drawn(model, texts) if source]
    assert len(set(found.source)) > 3  # not the same for equal texts
    again = back_translated(model, texts, seed=3)
    assert again.source == found.source
    assert back_translated(model, texts, seed=4).source != found.source
    more = back_translated(model, texts, true=TRUE, repeat=2, seed=3)
    assert more.source == ["ab", "ab", *found.source]
    assert more.target == ["ba", "ba", *found.target]


def _drawn(model: Translator, texts: list[str]) -> list[str]:
    drawing: Any = {"temperature": 1.0, "generator": torch.Generator().manual_seed(3), "length": 15}
    return model.translate(texts, beams=1, **drawing)


def test_nothing_is_left(monkeypatch):
    model: Any = reverser()
    monkeypatch.setattr(model, "translate", lambda texts, **how: [""] * len(texts))
    with pytest.raises(ValueError, match="there are no pairs"):
        back_translated(model, ["abc"])
    assert back_translated(model, ["abc"], true=TRUE).source == ["ab"]
    with pytest.raises(ValueError, match="repeat must be a whole number from 1, not 0"):
        back_translated(model, ["abc"], true=TRUE, repeat=0)
