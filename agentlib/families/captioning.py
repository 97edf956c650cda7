"""How good captions are that a learner writes, and whether their words look at what they name.

    exact     = share of the test pictures whose caption is the true one, letter by letter
    attention = share of the words that name a class whose largest weight lies on an object of the class

Their floors are the most frequent caption, and a place at random.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from agentlib.core.modes import in_eval_mode
from agentlib.core.recipe import Judge, Measure, Problem
from agentlib.data import Batches, Scenes, ScenesParts
from agentlib.data.parallel import PAD
from agentlib.families.building import device_of
from agentlib.metrics.translation import MOST_WORDS, bleu, words_13a
from agentlib.plots import pictures, scenes

EVALUATIONS, EVALUATED, AT_ONCE = 20, 200, 64
"""Evaluations in a run, at most; validation pictures that each looks at, at most; and pictures computed at once."""
SHOWN = 4
"""Test pictures that are drawn, and captions in the results."""


class WritingJudge(Judge):
    """The loss on validation pictures while training; on test pictures exact captions, BLEU, and attention."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(self, learner: Any, source: Batches, splits: ScenesParts, problem: Problem) -> None:
        super().__init__()
        self.learner, self.splits, self.source = learner, splits, source
        # An update costs three passes for each picture, an evaluation one: it is to take a tenth of the time at most.
        self.evaluated = splits.validation.sampled(EVALUATED)
        least = math.ceil(len(self.evaluated) / (0.3 * problem.config.batch_size))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, least)
        self.facts |= {"pictures": {name: len(part) for name, part in splits._asdict().items()}}
        self.facts |= {"vocabulary": learner.network.text.size}
        for part in splits[1:]:  # a caption that is too long would end a long run in an error
            learner.network.tokens(part.known("captions"))

    def loss_on(self, part: Scenes) -> float:
        """Nats per word of the captions, their ends among them."""
        tokens, device = self.learner.network.tokens(part.known("captions")), device_of(self.learner)
        with in_eval_mode(self.learner):
            pairs = zip(part.images.split(AT_ONCE), tokens.split(AT_ONCE), strict=True)
            total = sum(float(self.learner.losses(x.to(device), y.to(device)).double().sum()) for x, y in pairs)
        return total / int((tokens[:, 1:] != PAD).sum())

    def evaluate(self) -> dict[str, float]:
        loss = self.loss_on(self.evaluated)
        self.note(self.source.updates, "validation", loss)
        return {"eval/loss": loss}

    def finish(self) -> list[Measure]:
        test, captions = self.splits.test, self.splits.test.known("captions")
        found = self.learner.network.caption(test.images)
        self.facts["captions"] = [list(pair) for pair in zip(captions, found, strict=True)][:SHOWN]
        frequent = Counter(self.splits.train.known("captions")).most_common(1)[0][0]
        guess, whose = [frequent] * len(test), "the most frequent caption"
        exact, floor = (
            sum(one == true for one, true in zip(texts, captions, strict=True)) / len(test) for texts in (found, guess)
        )
        measures = [
            Measure("test/loss", self.loss_on(test), math.log(self.learner.network.text.size), "all words alike"),
            Measure("test/exact", exact, floor, whose),
        ]
        if any(len(words_13a(text)) >= MOST_WORDS for text in captions):  # else there is nothing to count
            measures.append(Measure("test/bleu", bleu(found, captions), bleu(guess, captions), whose))
        looks = self.looks(test, found)
        if looks is not None and test.masks is not None and test.labels is not None:
            share, random = inside(looks, test)
            if not math.isnan(share):
                measures.append(Measure("test/attention", share, random, "a random place"))
        return measures

    def looks(self, part: Scenes, captions: list[str]) -> list[tuple[list[str], Tensor]] | None:
        """As `Captioner.attention` has it; None if nothing is attended to."""
        try:
            found: list[tuple[list[str], Tensor]] = self.learner.network.attention(part.images, captions)
        except ValueError:
            return None
        return found

    def draw(self, folder: Path) -> list[Path]:
        part = self.splits.test.take(slice(0, SHOWN))
        captions = self.learner.network.caption(part.images)
        looks: Any = self.looks(part, captions) or [([caption], None) for caption in captions]
        figures = {"captions": scenes.captions(part.images.float() / 255.0, looks)}
        if "validation" in self.curves:
            steps, values = self.curves["validation"]
            axes: Any = {"x_label": "Updates", "y_label": "Nats per word"}
            figures["learning_curve"] = pictures.lines(
                steps, {"validation": values}, title="Loss on validation pictures", **axes
            )
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def inside(looks: list[tuple[list[str], Tensor]], part: Scenes) -> tuple[float, float]:
    """Share of the words that name a class whose largest weight lies on an object of it; and that of random places.

    A place lies on an object if one of the pixels that it covers shows the object. NaN if no word names a class.

    Args:
        looks: words and their weights `(T, h, w)`, for each picture.
        part: the pictures, with masks and labels.
    """
    hits, shares = list[float](), list[float]()
    for (words, weights), semantic in zip(looks, part.semantic, strict=True):
        for word, weight in zip(words, weights, strict=True):
            if word in part.classes:
                shown = (semantic == 1 + part.classes.index(word)).float()[None, None]
                there = functional.adaptive_max_pool2d(shown, weight.shape)[0, 0].flatten()  # (h w,)
                hits.append(float(there[weight.flatten().argmax()]))
                shares.append(float(there.mean()))
    if not hits:
        return math.nan, math.nan
    return sum(hits) / len(hits), sum(shares) / len(shares)
