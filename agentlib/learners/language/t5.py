"""T5: a network that reads one text and writes another learns from any text, and then from tasks (Raffel et al. 2020).

    L = -1/T sum_t log p(y_t | y_1, ..., y_{t-1}, x)

x is a piece of a text with spans cut out, y the spans, each behind the sentinel that stands for it in x
(arXiv:1910.10683; `agentlib.data.spans` has an example): 15% of the tokens, in spans of 3 on average.

The learner is that of `seq2seq`, whose runs go on from the network and the tokens of this one: with pairs of several
tasks, each source beginning with the name of its task (text-to-text), with all weights or with a learned prompt. We
differ from T5 in sinusoidal positions, layer normalization with biases, an embedding of each side, Adam in place of
Adafactor, and sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agentlib.core import Recipe
from agentlib.core.config import Range, Unit
from agentlib.families.spans import on_spans
from agentlib.learners.language.seq2seq import Seq2Seq, Seq2SeqConfig


@dataclass(frozen=True, kw_only=True)
class T5Config(Seq2SeqConfig):
    """The numbers of a run on a text with spans cut out."""

    label_smoothing: Unit = 0.0
    """Share of the target that all tokens have alike."""
    noise_density: Unit = 0.15
    """Share of the tokens that are cut out."""
    mean_span_length: Annotated[float, Range(1)] = 3.0
    """Mean length of the spans, in tokens."""


RECIPE = Recipe(
    "t5",
    Seq2Seq,
    T5Config,
    on_spans,
    "text to text (Raffel et al. 2020): fills in spans that were cut out, for seq2seq to go on from",
    steps=3_000,
)
