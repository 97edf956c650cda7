"""Learning from a text of which some tokens are hidden, judged by how well those of a held-out end are found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from agentlib.backbones import from_spec, load_backbone
from agentlib.core.modes import in_eval_mode
from agentlib.core.names import shown
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.core.trees import mapped
from agentlib.data.loading import is_path
from agentlib.data.masking import SPECIAL, MaskedPairs, MaskedWindows, masked, segment_pairs
from agentlib.data.text import Text, text_of
from agentlib.families.building import device_of, job_for, learner_for, with_reach
from agentlib.families.texts import TextFacts, unigram_loss
from agentlib.plots import pictures

EVALUATIONS, EVALUATED, TESTED, AT_ONCE = 20, 256, 1_024, 64
"""Evaluations in a run, at most; pairs that each looks at; those of the result; and those computed at once."""


@family(
    "text",
    needs=("data",),
    makes_agent=False,
    fields=("batch_size", "context_length", "tokenizer", "vocabulary_size"),
    methods=("losses", "network"),
)
def on_masked_texts(recipe: Recipe, problem: Problem) -> Job:
    """A model of hidden tokens of a text, of which the last tenth is held out.

    A learner has `losses(batch)`, of `MaskedPairs`: those of hidden tokens `(B, T)` and of "is it the next?" `(B,)`; a
    `product`, a function of tokens that gives the logits of both; and a static method `network(config, vocabulary)`.

    Raises:
        ValueError: the text is too short, a context of fewer than 5 tokens or of more than the backbone reads, or
            what `text_of` and the learner raise.
    """
    config, backbone = problem.config, problem.backbone
    length = (config.context_length - SPECIAL) // 2
    if length < 1:
        raise ValueError(f"two pieces and three special tokens need a context_length of 5, not {config.context_length}")
    text = text_of(problem.data, config.tokenizer, config.vocabulary_size)
    train, held_out = text.split()

    def network() -> nn.Module:
        if isinstance(backbone, nn.Module):
            return backbone
        if backbone in ("auto", "transformer"):
            kind: Any = recipe.learner
            return kind.network(config, text.tokenizer.size)  # type: ignore[no-any-return]
        if isinstance(backbone, str) and not is_path(backbone):
            raise ValueError(f"the backbone is auto, the transformer, or a saved encoder's file, not {shown(backbone)}")
        return from_spec(backbone) if isinstance(backbone, dict) else load_backbone(backbone)

    pair = 2 * length + SPECIAL
    learner = learner_for(recipe, problem, lambda: with_reach(network(), pair), TextFacts(train))
    source = MaskedWindows(train, length, config.batch_size, problem.seed)
    judge = MaskedJudge(learner, source, train, held_out, problem)
    return job_for(problem, learner, source, learner.product, judge)


class MaskedJudge(Judge):
    """The loss of hidden tokens of the held-out end, and how often the next piece is known from any other."""

    objective, lower_is_better, evaluates = "eval/masked_loss", True, True

    def __init__(self, learner: Any, source: MaskedWindows, train: Text, held_out: Text, problem: Problem) -> None:
        super().__init__()
        self.learner, self.source, self.train, self.held_out = learner, source, train, held_out
        segment_pairs(held_out, 1, source.length, np.random.default_rng(0))  # raises where it is too short
        least = math.ceil(EVALUATED / (0.3 * problem.config.batch_size))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, least)
        sizes = {"tokens": len(train), "held_out_tokens": len(held_out), "vocabulary": train.tokenizer.size}
        self.facts |= {**sizes, "tokenizer": train.tokenizer.digest}

    def scores(self, pairs: int) -> tuple[float, float]:
        """Nats per hidden token, and the share of right answers to "is it the next?"; always of the same pairs."""
        generator, masks = np.random.default_rng(1), torch.Generator().manual_seed(1)
        total, count, right, device = 0.0, 0, 0, device_of(self.learner)
        clock = self.source.batch_clock
        with in_eval_mode(self.learner):
            for _ in range(0, pairs, AT_ONCE):
                tokens, is_next = segment_pairs(self.held_out, AT_ONCE, self.source.length, generator)
                inputs, chosen = masked(tokens, self.train.tokenizer.size, masks)
                batch = mapped(MaskedPairs(inputs, tokens, chosen, is_next, clock), lambda part: part.to(device))
                hidden, follows = self.learner.losses(batch)
                total, count = total + float(hidden.double().sum()), count + int(chosen.sum())
                right += int((follows < math.log(2.0)).sum())  # the true answer has more than a half
        return total / max(count, 1), right / (-(-pairs // AT_ONCE) * AT_ONCE)

    def evaluate(self) -> dict[str, float]:
        loss, accuracy = self.scores(EVALUATED)
        self.note(self.source.updates, "held out", loss)
        return {"eval/masked_loss": loss, "eval/next_accuracy": accuracy}

    def finish(self) -> list[Measure]:
        loss, accuracy = self.scores(TESTED)
        floor, whose = unigram_loss(self.train, self.held_out), "tokens by their frequency alone"
        return [
            Measure("test/masked_loss", loss, floor, whose),
            Measure("test/masked_perplexity", math.exp(min(loss, 700.0)), math.exp(floor), whose),
            Measure("test/next_accuracy", accuracy, 0.5, "chance"),
        ]

    def draw(self, folder: Path) -> list[Path]:
        if "held out" not in self.curves:
            return []
        steps, values = self.curves["held out"]
        axes: Any = {"x_label": "Updates", "y_label": "Nats per hidden token"}
        figure = pictures.lines(steps, {"held out": values}, title="Loss of hidden tokens of the held-out end", **axes)
        return [pictures.save(figure, folder / "learning_curve.png")]
