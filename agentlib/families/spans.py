"""Learning from a text to write the spans that were cut out of it, judged on a held-out end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentlib.core.modes import in_eval_mode
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data.parallel import PAD
from agentlib.data.spans import WITH_SENTINELS, CorruptedSpans, spans_of
from agentlib.data.text import Text, text_of
from agentlib.families.building import device_of, job_for, learner_for
from agentlib.families.texts import TextFacts
from agentlib.families.translations import network_of
from agentlib.plots import pictures

EVALUATIONS, EVALUATED, TESTED, AT_ONCE = 20, 256, 1_024, 64
"""Evaluations in a run, at most; pieces that each looks at; those of the result; and those computed at once."""


@family(
    "text",
    needs=("data",),
    makes_agent=False,
    fields=("batch_size", "max_length", "noise_density", "mean_span_length", "tokenizer", "vocabulary_size"),
    methods=("losses", "network"),
)
def on_spans(recipe: Recipe, problem: Problem) -> Job:
    """A model of spans that are cut out of a text, of which the last tenth is held out.

    A learner is one of `on_translations`: sources are pieces of the text, and targets the spans.

    Raises:
        ValueError: the text is too short, or what `text_of`, `CorruptedSpans` and the learner raise.
    """
    config: Any = problem.config
    text = text_of(problem.data, config.tokenizer, config.vocabulary_size, WITH_SENTINELS)
    train, held_out = text.split()
    spans = config.noise_density, config.mean_span_length
    learner = learner_for(recipe, problem, lambda: network_of(recipe, problem, text.tokenizer), TextFacts(train))
    source = CorruptedSpans(train, learner.product.max_length, config.batch_size, *spans, problem.seed)
    judge = SpanJudge(learner, source, held_out, problem)
    return job_for(problem, learner, source, learner.product, judge)


class SpanJudge(Judge):
    """The loss of spans that were cut out of the held-out end, and the share of them that are filled in exactly."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(self, learner: Any, source: CorruptedSpans, held_out: Text, problem: Problem) -> None:
        super().__init__()
        self.learner, self.source, self.held_out = learner, source, held_out
        source.drawn(held_out, 1, np.random.default_rng(0))  # raises where it is too short
        least = math.ceil(EVALUATED / (0.3 * problem.config.batch_size))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, least)
        sizes = {"tokens": len(source.text), "held_out_tokens": len(held_out)}
        tokenizer = held_out.tokenizer
        self.facts |= {**sizes, "vocabulary": tokenizer.size, "tokenizer": tokenizer.digest}

    def loss_on(self, source: Any, target: Any) -> float:
        """Nats per token of the targets, their ends among them."""
        total, device = 0.0, device_of(self.learner)
        with in_eval_mode(self.learner):
            for first in range(0, len(source), AT_ONCE):
                sides = (torch.from_numpy(side[first : first + AT_ONCE]).to(device) for side in (source, target))
                total += float(self.learner.losses(*sides).double().sum())
        return total / int((target[:, 1:] != PAD).sum())

    def evaluate(self) -> dict[str, float]:
        loss = self.loss_on(*self.source.drawn(self.held_out, EVALUATED, np.random.default_rng(1)))
        self.note(self.source.updates, "held out", loss)
        return {"eval/loss": loss}

    def finish(self) -> list[Measure]:
        source, target = self.source.drawn(self.held_out, TESTED, np.random.default_rng(2))
        loss, size = self.loss_on(source, target), self.held_out.tokenizer.size
        tried = slice(EVALUATED)
        found = map(spans_of, self.learner.product.answers(source[tried].tolist(), beams=1, length=target.shape[1] - 1))
        right, count = 0, 0
        for answer, true in zip(found, map(spans_of, target[tried]), strict=True):
            right, count = right + sum(answer.get(name) == span for name, span in true.items()), count + len(true)
        return [
            Measure("test/loss", loss, math.log(size), "all tokens alike"),
            Measure("test/perplexity", math.exp(min(loss, 700.0)), float(size), "all tokens alike"),
            Measure("test/exact", right / count),
        ]

    def draw(self, folder: Path) -> list[Path]:
        if "held out" not in self.curves:
            return []
        steps, values = self.curves["held out"]
        axes: Any = {"x_label": "Updates", "y_label": "Nats per token of a span"}
        figure = pictures.lines(steps, {"held out": values}, title="Loss of spans of the held-out end", **axes)
        return [pictures.save(figure, folder / "learning_curve.png")]
