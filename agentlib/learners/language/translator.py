"""A network for the probabilities of a target's next token given a source, its tokenizer, and its decoding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import Described
from agentlib.core.modes import in_eval_mode
from agentlib.core.numbers import whole
from agentlib.core.progress import watched
from agentlib.data.parallel import END, PAD, SPECIAL, START, encoded, padded
from agentlib.data.spans import BLANK, WITH_SENTINELS, restored, with_blanks
from agentlib.data.tokens import Tokenizer, tokenizer_from_json
from agentlib.policies.decoding import decoded

AT_ONCE = 64
"""Texts that are translated at once."""


class Translator(Described):
    """p(next token of the target | source, tokens before), by a network of two sequences.

    Args:
        backbone: `EncoderDecoder`, `RecurrentEncoderDecoder`, or another module with their methods `begin` and `step`.
        tokenizer: as `Tokenizer.to_json` gives it; its first tokens are those of `agentlib.data.parallel.SPECIAL`.
        max_length: tokens of a source or a target, at most; it is cut to what the backbone reads at once.
        tied: the output has the weights of the target's embedding (Press & Wolf 2017).
        prompt_length: vectors before each source, which are learned as weights are (Lester et al. 2021,
            arXiv:2104.08691); they begin as the embeddings of random tokens.

    Raises:
        ValueError: the backbone is none, has another vocabulary than the tokenizer, or that has other special tokens;
            or a prompt, and no embedding of the source.
    """

    kind = "translator"

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: dict[str, Any],
        max_length: int = 128,
        tied: bool = True,
        prompt_length: int = 0,
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.tokenizer, self.tied, self.prompt_length = tokenizer, bool(tied), whole("prompt_length", prompt_length, 0)
        of_source, of_target = getattr(backbone, "reach", (math.inf, math.inf))
        longest = min(whole("max_length", max_length, 1), of_source - prompt_length, of_target)
        self.max_length = whole("the length that the backbone reads beside a prompt", longest, 1)
        if not hasattr(backbone, "begin") or not hasattr(backbone, "step"):
            raise ValueError("a translator has a network that reads one sequence and writes another, such as "
                             f"encoder_decoder, not a {type(backbone).__name__}")  # fmt: skip
        if self.text.special[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"a tokenizer of pairs of texts begins with {' '.join(SPECIAL)}, and this one does not")
        embedding = backbone.target_embedding
        if not isinstance(embedding, nn.Embedding) or embedding.num_embeddings != self.text.size:
            known = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else "no"
            raise ValueError(f"the network knows {known} tokens, and the tokenizer has {self.text.size}")
        size = int(backbone.feature_dim)  # type: ignore[arg-type]
        self.head = None if tied else nn.Linear(size, self.text.size, bias=False)
        self.prompt: nn.Parameter | None = None
        if prompt_length:
            read = getattr(backbone, "source_embedding", None)
            if not isinstance(read, nn.Embedding):
                raise ValueError("a prompt stands before a source of tokens, and this network reads none")
            rows = torch.randint(self.text.size, (prompt_length,))
            self.prompt = nn.Parameter(read.weight.detach()[rows])  # (P, dim)

    @cached_property
    def text(self) -> Tokenizer:
        """The tokenizer of source and target."""
        return tokenizer_from_json(self.tokenizer)

    def scores(self, features: Tensor) -> Tensor:
        """Logits `(..., V)` of features."""
        if self.head is not None:
            return self.head(features)  # type: ignore[no-any-return]
        # An embedding has the size of the positions beside it; an output of that size would be sure at the start.
        return nn.functional.linear(features * features.shape[-1] ** -0.5, self.backbone.target_embedding.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `(B, T)`, given the source `(B, S)`; both may be padded."""
        read = getattr(self.backbone, "whole", self.backbone)
        source, mask = self.prompted(source)
        return self.scores(read(source, target, mask))

    def prompted(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What is read in place of a source `(B, S)`: with a prompt vectors `(B, P + S, dim)`; and the mask of it."""
        mask = source != PAD
        if self.prompt is None:
            return source, mask
        prompt = self.prompt.expand(len(source), -1, -1)  # (B, P, dim)
        vectors = torch.cat([prompt, self.backbone.source_embedding(source)], 1)
        return vectors, torch.cat([mask.new_ones(prompt.shape[:2]), mask], 1)

    def begin(self, source: Tensor) -> tuple[Tensor, Any]:
        """Logits `(B, V)` of the first token, and the state, for `agentlib.policies.decoding`."""
        start = torch.full_like(source[:, 0], START)
        return self.step(start, self.backbone.begin(*self.prompted(source)))

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits `(B, V)` after one more token `(B,)`, and the next state; padding and `<s>` are never next."""
        features, state = self.backbone.step(token, state)
        logits = self.scores(features)
        never = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill((never == PAD) | (never == START), -torch.inf), state

    def translate(self, texts: Sequence[str], *, beams: int = 5, **how: Any) -> list[str]:
        """A translation of each text; the arguments are those of `answers`.

        Raises:
            ValueError: a text is longer than `max_length`, or a number is out of its range.
            TypeError: one text, which is no list of texts.
        """
        if isinstance(texts, str):
            raise TypeError("translate takes a list of texts: put the one into brackets")
        return [self.text.decode(line) for line in self.answers(encoded(texts, self.text), beams=beams, **how)]

    def fill(self, texts: Sequence[str], *, beams: int = 1, **how: Any) -> list[str]:
        """The texts with each `___` filled in, by a model that has learned that; the arguments are those of `answers`.

        Raises:
            ValueError: the model has not learned from spans, a text has too many, or as `translate`.
            TypeError: one text, which is no list of texts.
        """
        if isinstance(texts, str):
            raise TypeError("fill takes a list of texts: put the one into brackets")
        if self.text.special != WITH_SENTINELS:
            raise ValueError("this model has not learned to fill in: agentlib train t5 makes one that has")
        sources = [with_blanks(text, self.text) for text in texts]
        answers = self.answers(sources, beams=beams, **how)
        return [self.text.decode(restored(*row)) for row in zip(sources, answers, strict=True)]

    def answers(
        self,
        sources: Sequence[Sequence[int]],
        *,
        beams: int = 5,
        length_penalty: float = 1.0,
        word_bonus: float = 0.0,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        length: int | None = None,
    ) -> list[Any]:
        """The tokens of the target of each source, `</s>` behind them.

        Args:
            sources: tokens, each with `</s>` behind it.
            beams: of the search for the most probable target; 1 takes or draws token by token.
            length_penalty, word_bonus: see `agentlib.policies.decoding`.
            temperature, top_k, top_p, generator: of one beam: 0 takes the best token; else see `restricted`.
            length: tokens of a target, at most; by default twice those of the source and ten more.

        Raises:
            ValueError: a source is longer than `max_length`, or a number is out of its range.
        """
        if length is not None:
            whole("length", length, 1)
        order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
        if order and len(sources[order[-1]]) > self.max_length:
            longest = len(sources[order[-1]])
            raise ValueError(
                f"text {order[-1] + 1} has {longest} tokens, more than the {self.max_length} that are read: cut it"
            )
        device, found = next(self.parameters()).device, list[Any](sources)
        parts = list[list[int]]()
        for _, alike in groupby(order, key=lambda row: len(sources[row])):  # so that none depends on another
            rows = list(alike)
            parts += [rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE)]
        for part in watched(parts, "translations") if len(parts) > 50 else parts:
            most = min(2 * len(sources[part[-1]]) + 10 if length is None else length, self.max_length)
            with in_eval_mode(self):
                logits, state = self.begin(padded([sources[row] for row in part]).to(device))
                how: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
                how |= {"length_penalty": length_penalty, "word_bonus": word_bonus}
                tokens = decoded(self.step, logits, state, most, beams=beams, end=END, **how)
            for row, line in zip(part, tokens.cpu().numpy(), strict=True):
                found[row] = line  # what follows the end is ends, of which no text is left
        return found

    def generate(self, prompt: str, length: int = 200, *, beams: int = 1, **how: Any) -> Iterator[str]:
        """Yields one translation, or the text with each `___` filled in, for `agentlib sample`; by default drawn."""
        answer = self.fill if BLANK in prompt and self.text.special == WITH_SENTINELS else self.translate
        yield answer([prompt], beams=beams, length=length, **{"temperature": 1.0} | how)[0]
