"""A network for the probabilities of the next token, the tokenizer that it learned with, and its decoding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone, Described, TransformerDecoder
from agentlib.backbones.base import State
from agentlib.core.modes import in_eval_mode
from agentlib.core.numbers import whole
from agentlib.data.tokens import Tokenizer, tokenizer_from_json
from agentlib.policies.decoding import beam_search, sampled

UNFINISHED = "\ufffd"
"""Stands in a text for bytes that are no whole character."""


class Reading(NamedTuple):
    """The state while decoding."""

    tokens: Tensor
    """`(B, n)`: those that the memory holds."""
    memory: State
    """The backbone's; None where nothing is kept."""


class LanguageModel(Described):
    """p(next token | tokens before), by a backbone with memory that reads tokens.

    Args:
        backbone: a network with memory; `TransformerDecoder(vocabulary=...)`, or a recurrent one on indicator vectors.
        tokenizer: as `Tokenizer.to_json` gives it; None where tokens are all that is known.
        context: tokens that the backbone can read at once; None for any number. Where it is full while decoding, the
            model goes on from the later half of it.
        tied: the head has the embedding's weights (Press & Wolf 2017), as in GPT-2.

    Raises:
        ValueError: the backbone has no memory, has another vocabulary than the tokenizer, or no embedding to tie; or no
            number of tokens as the context.
    """

    kind = "language_model"

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        tokenizer: dict[str, Any] | None = None,
        context: int | None = None,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.context = None if context is None else whole("context", context, 1)
        self.tokenizer, self.tied = tokenizer, bool(tied)
        vocabulary = getattr(backbone, "vocabulary", None)
        size = vocabulary if tokenizer is None else self.text.size
        if size is None or not getattr(backbone, "is_sequence", False):
            raise ValueError("a language model has a network with memory that reads tokens, and a tokenizer")
        if vocabulary not in (None, size):
            raise ValueError(
                f"the network has a vocabulary of {vocabulary} tokens, and the tokenizer one of {size}: give the "
                "tokenizer that it learned with, tokenizer=FILE of its model"
            )
        if tied and vocabulary is None:
            raise ValueError("a head has the weights of an embedding, and this network has none: give tied=False")
        self.head = None if tied else nn.Linear(int(backbone.feature_dim), size, bias=False)  # type: ignore[arg-type]

    @cached_property
    def text(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ValueError: the model has none.
        """
        return tokenizer_from_json(self.tokenizer)

    @property
    def end(self) -> int | None:
        """The token that ends a text, if there is one."""
        special = () if self.tokenizer is None else self.text.special
        return special.index("</s>") if "</s>" in special else None

    def forward(
        self, tokens: Tensor, state: State | None = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Logits `(B, T, V)` of the token after each of `(B, T)`, and the next state."""
        features, state = self.backbone(tokens, state, episode_start)
        return self.scores(features), state

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `(B, T)`, which are read from their first on."""
        whole = getattr(self.backbone, "whole", None)
        return self.scores(self.backbone(tokens)[0] if whole is None else whole(tokens))

    def scores(self, features: Tensor) -> Tensor:
        """Logits `(..., V)` of features."""
        weight = self.backbone.embedding.content.weight if self.head is None else self.head.weight
        return nn.functional.linear(features, weight)

    def read(self, tokens: Tensor, cache: bool = True) -> tuple[Tensor, Reading]:
        """Logits `(B, V)` after the last of tokens `(B, T)`, and the state; of too many the later ones are read."""
        if self.context is not None and tokens.shape[1] > self.context:
            tokens = tokens[:, -max(self.context // 2, 1) :]
        logits, memory = self(tokens)
        if isinstance(self.backbone, TransformerDecoder):
            memory = self.backbone.trimmed(memory, tokens.shape[1])
        return logits[:, -1], Reading(tokens, memory if cache else None)

    def step(self, token: Tensor, state: Reading) -> tuple[Tensor, Reading]:
        """Logits `(B, V)` after one more token `(B,)`, and the next state; see `agentlib.policies.decoding`."""
        tokens = torch.cat([state.tokens, token[:, None]], 1)
        if state.memory is None or (self.context is not None and tokens.shape[1] > self.context):
            return self.read(tokens, cache=state.memory is not None)
        logits, memory = self(token[:, None], state.memory)
        return logits[:, -1], Reading(tokens, memory)

    def generate(
        self,
        prompt: str = "\n",
        length: int = 200,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        generator: torch.Generator | None = None,
        cache: bool = True,
    ) -> Iterator[str]:
        """Yields what follows a prompt, piece by piece.

        Args:
            prompt: the text before, at least one token.
            length: tokens, at most.
            temperature, top_k, top_p: see `agentlib.policies.decoding.restricted`; a temperature of 0 takes the best.
            beams: more than 1 searches for the most probable text in place of drawing one.
            generator: of the draws.
            cache: keep keys and values, or whatever the network remembers; without it all is read again each time.

        Raises:
            ValueError: the prompt is empty, or has unknown characters; or a number is out of its range.
        """
        if beams < 1:
            raise ValueError(f"beams are at least 1, not {beams}")
        chosen: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
        pieces = self._pieces(prompt, length, beams, cache, chosen)
        while True:
            with in_eval_mode(self):  # and not while the caller has a piece
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _pieces(self, prompt: str, length: int, beams: int, cache: bool, chosen: dict[str, Any]) -> Iterator[str]:
        """As `generate`, which puts the network into eval mode for each piece."""
        device = next(self.parameters()).device
        numbers = torch.from_numpy(self.text.encode(prompt).astype("int64")).to(device)
        if not len(numbers) or length < 1:
            raise ValueError("a model of language needs a prompt of at least one token, and a length of at least 1")
        logits, state = self.read(numbers[None], cache)
        if beams > 1:
            found = beam_search(self.step, logits, state, length, beams=beams, end=self.end, length_penalty=1.0)
            yield self.text.decode(found.tokens[0, 0, : int(found.lengths[0, 0])].cpu())
            return
        waiting = list[int]()
        for token in sampled(self.step, logits, state, length, end=self.end, **chosen):
            waiting.append(int(token))
            piece = self.text.decode(waiting)
            if not piece.endswith(UNFINISHED) or len(waiting) > 3:
                waiting = []
                yield piece
        if waiting:
            yield self.text.decode(waiting)
