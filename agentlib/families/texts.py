"""Learning from a text: its tokens, windows of them, and how well an end that was held out is predicted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.core.modes import in_eval_mode
from agentlib.core.progress import watched
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.core.source import Source
from agentlib.data.text import Text, Windows, text_of
from agentlib.data.tokens import Tokenizer
from agentlib.families.building import device_of, job_for, learner_for, network_for, with_reach
from agentlib.plots import pictures

EVALUATIONS, EVALUATED, AT_ONCE = 50, 16_384, 1 << 22
"""Evaluations in a run, at most; held-out tokens that each looks at; and logits that are computed at once."""
SAMPLE = 300
"""Tokens of the sample in the results."""


class TextFacts(NamedTuple):
    """The problem of a learner from text."""

    train: Text
    """The text to learn from."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""
        return self.train.tokenizer


@family(
    "text",
    needs=("data",),
    makes_agent=False,
    fields=("batch_size", "context_length", "tokenizer", "vocabulary_size"),
    methods=("losses", "network"),
)
def on_texts(recipe: Recipe, problem: Problem) -> Job:
    """A model of a text, of which the last tenth is held out.

    A learner has `losses(tokens)`, those `(B, T)` of windows `(B, T + 1)`, a `product`, the network that the run
    leaves, and a static method `network(config, vocabulary)`, its transformer. In place of it, `problem.backbone` names
    another network with memory: "lstm", "gru", "rnn".

    Raises:
        ValueError: the text is shorter than a window, the backbone reads less of one, or what `text_of` and the
            learner raise.
    """
    config: Any = problem.config
    text = text_of(problem.data, config.tokenizer, config.vocabulary_size)
    train, held_out = text.split()

    def network() -> nn.Module:
        if problem.backbone in ("auto", "transformer"):
            kind: Any = recipe.learner
            return kind.network(config, text.tokenizer.size)  # type: ignore[no-any-return]
        chosen = network_for(problem, spaces.Discrete(text.tokenizer.size), memory=True)
        return with_reach(chosen, config.context_length)

    learner = learner_for(recipe, problem, network, TextFacts(train))
    source = Windows(train, config.context_length, config.batch_size, problem.seed)
    return job_for(problem, learner, source, learner.product, TextJudge(learner, source, train, held_out, problem))


def unigram_loss(train: Text, held_out: Text) -> float:
    """Nats per held-out token of a model that knows how often each token is, and no more (with one added to each)."""
    counts, seen = (part.counts() for part in (train, held_out))
    return float(-(seen * np.log((counts + 1.0) / (counts + 1.0).sum())).sum() / seen.sum())


class TextJudge(Judge):
    """The loss on the end of a text: in nats per token, as perplexity, and in bits per character."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(self, learner: Any, source: Source, train: Text, held_out: Text, problem: Problem) -> None:
        super().__init__()
        self.learner, self.source, self.train, self.held_out = learner, source, train, held_out
        self.seed = problem.seed
        self.context = min(problem.config.context_length, len(held_out) - 1)
        if self.context < 1:
            raise ValueError(f"the text has {len(train) + len(held_out)} tokens, of which the last tenth is held out: "
                             "give more text")  # fmt: skip
        batch_tokens = problem.config.batch_size * problem.config.context_length
        # An evaluation is to take a tenth of the time at most: a token of an update takes three passes, one here.
        fewest = min(EVALUATED, len(held_out)) / (0.3 * batch_tokens)
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, math.ceil(fewest))
        sizes = {"tokens": len(train), "held_out_tokens": len(held_out), "vocabulary": train.tokenizer.size}
        self.facts |= {**sizes, "tokenizer": train.tokenizer.digest}

    def evaluate(self) -> dict[str, float]:
        windows = (len(self.held_out) - 1) // self.context
        shown = max(min(EVALUATED // self.context, windows), 1)
        starts = np.linspace(0, windows - 1, shown).astype(np.int64) * self.context
        total, count = self.loss_at(starts, self.context)
        self.note(self.source.updates, "held out", total / count)
        return {"eval/loss": total / count}

    def finish(self) -> list[Measure]:
        n = len(self.held_out) - 1
        starts = np.arange(n // self.context) * self.context
        total, count = self.loss_at(starts, self.context)
        if rest := n - count:  # the last window is shorter
            total += self.loss_at(np.array([count]), rest)[0]
        loss, floor = total / n, unigram_loss(self.train, self.held_out)
        whose = "tokens by their frequency alone"
        characters = sum(
            len(self.train.tokenizer.decode(self.held_out.tokens[start : start + (1 << 20)]))
            for start in range(1, n + 1, 1 << 20)
        )
        bits = total / math.log(2.0) / max(characters, 1)
        self.facts["sample"] = self.sample()
        return [
            Measure("test/loss", loss, floor, whose),
            Measure("test/perplexity", math.exp(min(loss, 700.0)), math.exp(floor), whose),
            Measure("test/bits_per_character", bits),
        ]

    def loss_at(self, starts: Any, length: int) -> tuple[float, int]:
        """The sum of the losses in windows of the held-out text that start at these places, and their number."""
        total, device, steps = 0.0, device_of(self.learner), np.arange(length + 1)
        logits = len(starts) * length * self.train.tokenizer.size
        parts = np.array_split(starts, min(-(-logits // AT_ONCE), len(starts)))
        with in_eval_mode(self.learner):
            for part in watched(parts, "held-out text") if len(parts) > 50 else parts:
                tokens = torch.from_numpy(self.held_out.tokens[part[:, None] + steps].astype(np.int64))
                losses: Tensor = self.learner.losses(tokens.to(device))
                total += float(losses.double().sum())
        return total, len(starts) * length

    def sample(self) -> str:
        """What the model makes of the beginning of the held-out text."""
        generator = torch.Generator(device_of(self.learner)).manual_seed(self.seed)
        prompt = self.train.tokenizer.decode(self.held_out.tokens[: self.context])
        if not prompt or not hasattr(self.learner.product, "generate"):
            return ""
        return "".join(self.learner.product.generate(prompt, SAMPLE, generator=generator))

    def draw(self, folder: Path) -> list[Path]:
        if "held out" not in self.curves:
            return []
        steps, values = self.curves["held out"]
        axes: Any = {"x_label": "Updates", "y_label": "Nats per token"}
        figure = pictures.lines(steps, {"held out": values}, title="Loss on the held-out end of the text", **axes)
        return [pictures.save(figure, folder / "learning_curve.png")]
