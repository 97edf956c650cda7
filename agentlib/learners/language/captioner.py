"""A network for the probabilities of a caption's next word given a picture, its vocabulary, and its decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.backbones import Described
from agentlib.core.modes import in_eval_mode
from agentlib.core.numbers import whole
from agentlib.core.progress import watched
from agentlib.data.parallel import END, PAD, START, encoded, padded
from agentlib.data.tokens import Tokenizer, tokenizer_from_json
from agentlib.policies.decoding import decoded

AT_ONCE = 64
"""Pictures that get captions at once."""


class Captioner(Described):
    """p(next word of the caption | picture, words before).

    Args:
        backbone: `RecurrentEncoderDecoder` or `EncoderDecoder` with an encoder of pictures, such as `MapTokens`.
        tokenizer: as `Tokenizer.to_json` gives it.
        max_length: tokens of a caption, its end among them, at most.
    """

    kind = "captioner"

    def __init__(self, backbone: nn.Module, tokenizer: dict[str, Any], max_length: int = 32) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.tokenizer, self.max_length = tokenizer, whole("max_length", max_length, 1)
        self.head = nn.Linear(int(backbone.feature_dim), self.text.size)  # type: ignore[arg-type]

    @cached_property
    def text(self) -> Tokenizer:
        """The vocabulary of the captions."""
        return tokenizer_from_json(self.tokenizer)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture."""
        return self.backbone.encoder.shape  # type: ignore[no-any-return]

    def tokens(self, captions: Sequence[str], end: bool = True) -> Tensor:
        """`(N, T + 1)` int64: `<s>`, the words, `</s>` if asked for, and padding.

        Raises:
            ValueError: a caption has more than `max_length` tokens; the message says which.
        """
        rows = [row if end else row[:-1] for row in encoded(captions, self.text, start=True)]
        for number, row in enumerate(rows, 1):
            if len(row) - 1 > self.max_length:
                raise ValueError(f"caption {number} has {len(row) - 1} tokens{' with its end' * end}, more than "
                                 f"max_length={self.max_length}: raise it, or leave the picture out")  # fmt: skip
        return padded(rows)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Logits `(B, T, V)` of the token after each of `(B, T)`, given pictures `(B, ...)`."""
        read = getattr(self.backbone, "whole", self.backbone)
        return self.head(read(x, tokens))  # type: ignore[no-any-return]

    def begin(self, x: Tensor) -> tuple[Tensor, Any]:
        """Logits `(B, V)` of the first token, and the state, for `agentlib.policies.decoding`."""
        start = torch.full((len(x),), START, device=x.device)
        return self.step(start, self.backbone.begin(x))

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits `(B, V)` after one more token `(B,)`, and the next state; padding and `<s>` are never next."""
        features, state = self.backbone.step(token, state)
        logits = self.head(features)
        never = torch.arange(logits.shape[-1], device=logits.device)
        return logits.masked_fill((never == PAD) | (never == START), -torch.inf), state

    def answer(self, x: Tensor, beams: int = 1, **how: Any) -> Tensor:
        """The tokens `(B, max_length)` of captions of pictures `(B, ...)`; what follows the end is ends.

        Without other arguments each word is the most probable one; see `agentlib.policies.decoding.decoded`.
        """
        with in_eval_mode(self):
            how = {"temperature": 0.0} | how
            found = decoded(self.step, *self.begin(x), self.max_length, beams=beams, end=END, **how)
        return nn.functional.pad(found, (0, self.max_length - found.shape[1]), value=END)

    def describe(self, answer: Tensor) -> str:
        """The text of an answer `(T,)`."""
        return self.text.decode(answer.cpu().numpy())

    def caption(self, x: Tensor, beams: int = 1, **how: Any) -> list[str]:
        """A caption of each picture `(N, ...)`; the arguments are those of `answer`."""
        device, parts = self.head.weight.device, watched(x.split(AT_ONCE), "captions")
        return [self.describe(row) for part in parts for row in self.answer(part.to(device), beams, **how)]

    def attention(self, x: Tensor, captions: Sequence[str]) -> list[tuple[list[str], Tensor]]:
        """The words of the caption of each picture `(N, ...)`, and where each looks, `(T, h, w)`; each sums to 1.

        Raises:
            ValueError: the network attends to nothing, or to tokens that lie in no rows and columns; or a caption has
                more than `max_length` words.
        """
        grid = getattr(self.backbone.encoder, "grid", None)
        if grid is None:
            raise ValueError("attention is shown on maps, and this network of pictures has none: take a cnn or resnet")
        found, device = [], self.head.weight.device
        with in_eval_mode(self):
            for first in range(0, len(x), AT_ONCE):
                # Without their ends, for which a caption that was written to the last token has no room.
                tokens = self.tokens(captions[first : first + AT_ONCE], end=False).to(device)
                before = tokens[:, : max(tokens.shape[1] - 1, 1)]
                weights = self.backbone.weights(x[first : first + AT_ONCE].to(device), before).cpu()
                for row, looks in zip(tokens[:, 1:].tolist(), weights, strict=True):
                    words = [self.text.decode([token]).strip() for token in row if token != PAD]
                    found.append((words, looks[: len(words)].unflatten(1, grid)))
        return found
