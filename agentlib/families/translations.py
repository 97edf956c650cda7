"""Learning from pairs of texts: their tokens, batches in a few shapes, and how good translations are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from agentlib.backbones import from_spec, load_backbone
from agentlib.core.modes import in_eval_mode
from agentlib.core.names import close_matches, shown
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data.loading import is_path
from agentlib.data.parallel import (
    SPECIAL,
    ParallelBatches,
    ParallelParts,
    ParallelText,
    encoded,
    longest_sides,
    padded,
    parallel_parts,
)
from agentlib.data.suites import suite_measures
from agentlib.data.tokens import KINDS, BytePairs, Bytes, Characters, Tokenizer, tokenizer_in
from agentlib.families.building import device_of, job_for, learner_for
from agentlib.metrics.translation import MOST_WORDS, bleu, chrf, words_13a
from agentlib.plots import pictures

EVALUATIONS, EVALUATED, AT_ONCE = 20, 500, 100
"""Evaluations in a run, at most; validation pairs that each looks at, at most; and pairs that are computed at once."""
NETWORKS = ("transformer", "lstm", "gru")
SHOWN = 5
"""Translations in the results."""


class PairFacts(NamedTuple):
    """The problem of a learner from pairs of texts."""

    train: ParallelText
    tokenizer: Tokenizer


@family(
    "pairs of texts",
    needs=("data",),
    makes_agent=False,
    fields=("batch_size", "max_length", "tokenizer", "vocabulary_size"),
    methods=("losses", "network"),
)
def on_translations(recipe: Recipe, problem: Problem) -> Job:
    """From one text to another, as `parallel_parts` takes them.

    A learner has `losses(source, target)`, those `(B, T)` of padded batches, 0 where there is padding; a `product` with
    `translate(texts)`; and a static method `network(config, vocabulary, name)`, where the problem's backbone is "auto",
    the "transformer", "lstm" or "gru". Any other backbone is a built or a saved network.

    Raises:
        ValueError: a pair of any part is too long, or what `parallel_parts`, tokenizers and the learner raise.
    """
    config: Any = problem.config
    parts = parallel_parts(problem.data, problem.seed)
    tokenizer = tokenizer_for(parts.train, config.tokenizer, config.vocabulary_size)
    learner = learner_for(
        recipe, problem, lambda: network_of(recipe, problem, tokenizer), PairFacts(parts.train, tokenizer)
    )
    most = min(config.max_length, getattr(learner.product, "max_length", config.max_length))
    limit = "max_length=" if most == config.max_length else "the window of the backbone, "
    source = ParallelBatches(parts.train, tokenizer, config.batch_size, most, problem.seed, limit)
    for name in ("validation", "test"):  # or a long run would end in an error
        pairs = getattr(parts, name)
        sides = encoded(pairs.source, tokenizer), encoded(pairs.target, tokenizer, start=True)
        longest_sides(*sides, most, f" of the {name} part", limit)
    judge = TranslationJudge(learner, source, parts, tokenizer, problem)
    return job_for(problem, learner, source, learner.product, judge)


def network_of(recipe: Recipe, problem: Problem, tokenizer: Tokenizer) -> nn.Module:
    """The problem's network of two sequences: built, saved, or made by the learner's `network`.

    Raises:
        ValueError: there is no such one; the message has close matches.
    """
    name, kind = problem.backbone, cast(Any, recipe.learner)
    if isinstance(name, nn.Module):
        return name
    if isinstance(name, Mapping):
        return from_spec(dict(name))
    if name in ("auto", *NETWORKS):
        chosen = NETWORKS[0] if name == "auto" else name
        return kind.network(problem.config, tokenizer.size, chosen)  # type: ignore[no-any-return]
    if isinstance(name, str) and not is_path(name):
        raise ValueError(f"unknown backbone {shown(name)}{close_matches(name, NETWORKS)}; or give a saved one's file")
    return load_backbone(name)


def tokenizer_for(pairs: ParallelText, name: str, vocabulary_size: int) -> Tokenizer:
    """The tokenizer of both sides, by its kind, or of a model's file.

    Raises:
        ValueError: there is no such one, or it is without the tokens that pairs need.
        ImportError: "bpe" needs an extra; the message names it.
    """
    if name not in KINDS:
        found = tokenizer_in(name)
        if found.special[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"the tokenizer of {shown(name)} is none of pairs of texts: it lacks {' '.join(SPECIAL)}")
        return found
    if name == "bytes":
        return Bytes(SPECIAL)
    texts = [*pairs.source, *pairs.target]
    if name == "bpe":
        return BytePairs.trained(texts, vocabulary_size, SPECIAL)
    return Characters("".join(texts), SPECIAL)


class TranslationJudge(Judge):
    """The loss on validation pairs while training; on test pairs BLEU, chrF, and the share of exact translations."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(
        self, learner: Any, source: ParallelBatches, parts: ParallelParts, tokenizer: Tokenizer, problem: Problem
    ) -> None:
        super().__init__()
        self.learner, self.source, self.parts, self.tokenizer = learner, source, parts, tokenizer
        self.evaluated = parts.validation.sampled(EVALUATED)
        # An update costs three passes for each pair, an evaluation one: it is to take a tenth of the time at most.
        least = math.ceil(len(self.evaluated) / (0.3 * problem.config.batch_size))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, least)
        self.facts |= {"pairs": {name: len(part) for name, part in parts._asdict().items()}}
        self.facts |= {"vocabulary": tokenizer.size, "tokenizer": tokenizer.digest}

    def loss_on(self, pairs: ParallelText) -> float:
        """Nats per token of the targets, their ends among them."""
        source = encoded(pairs.source, self.tokenizer)
        target = encoded(pairs.target, self.tokenizer, start=True)
        order = sorted(range(len(pairs)), key=lambda row: len(target[row]))
        total, count, device = 0.0, 0, device_of(self.learner)
        with in_eval_mode(self.learner):
            for first in range(0, len(order), AT_ONCE):
                rows = order[first : first + AT_ONCE]
                sides = (padded([side[row] for row in rows]).to(device) for side in (source, target))
                losses: Tensor = self.learner.losses(*sides)
                total += float(losses.double().sum())
                count += sum(len(target[row]) - 1 for row in rows)
        return total / count

    def longest_answer(self) -> int | None:
        """Tokens of the longest answer to a suite's questions: a longer one is wrong, and would take long to write."""
        if not self.parts.test.suite:
            return None
        return max(map(len, encoded(sorted(set(self.parts.train.target)), self.tokenizer)))

    def evaluate(self) -> dict[str, float]:
        loss = self.loss_on(self.evaluated)
        self.note(self.source.updates, "validation", loss)
        return {"eval/loss": loss}

    def finish(self) -> list[Measure]:
        test = self.parts.test
        found = self.learner.product.translate(test.source, length=self.longest_answer())
        self.facts["translations"] = [list(row) for row in zip(test.source, test.target, found, strict=True)][:SHOWN]
        whose = "the source as it is"
        exact, copied = (
            sum(one == true for one, true in zip(texts, test.target, strict=True)) / len(test)
            for texts in (found, test.source)
        )
        loss = self.loss_on(test)
        measures = [
            Measure("test/loss", loss, math.log(self.tokenizer.size), "all tokens alike"),
            Measure("test/perplexity", math.exp(min(loss, 700.0)), float(self.tokenizer.size), "all tokens alike"),
            Measure("test/exact", exact, copied, whose),
            Measure("test/chrf", chrf(found, test.target), chrf(test.source, test.target), whose),
        ]
        if test.suite:
            true, train = test.published or test.target, self.parts.train.target
            return [*measures, *suite_measures(test.suite, found, true, train)]
        if any(len(words_13a(text)) >= MOST_WORDS for text in test.target):  # else there is nothing to count
            measures.append(Measure("test/bleu", bleu(found, test.target), bleu(test.source, test.target), whose))
        return measures

    def draw(self, folder: Path) -> list[Path]:
        if "validation" not in self.curves:
            return []
        steps, values = self.curves["validation"]
        axes: Any = {"x_label": "Updates", "y_label": "Nats per token"}
        figure = pictures.lines(steps, {"validation": values}, title="Loss on validation pairs", **axes)
        return [pictures.save(figure, folder / "learning_curve.png")]
