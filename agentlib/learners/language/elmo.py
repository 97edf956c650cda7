"""ELMo: features of text from two language models, one for each direction (Peters et al. 2018, arXiv:1802.05365).

    L = -1/T sum_t (log p(x_{t+1} | x_1, ..., x_t) + log p(x_t | x_{t+1}, ..., x_{T+1})) / 2

A model that knows nothing has ln V; the best one has the entropy rate of the text, which both directions share, as they
do the embedding and the output layer. The features are a mixture of all layers, in equal parts until another learner
learns its weights. We differ from the paper in tokens of any kind in place of words made of characters, in states as
wide as the embedding, without projections, and in sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import BidirectionalLSTM, Described, Optimized
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update, Warmup
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data.text import TextWindow, markov, text_of
from agentlib.data.tokens import Tokenizer, tokenizer_from_json
from agentlib.families.texts import TextFacts, on_texts
from agentlib.learners.language.gpt import next_token_losses


class BidirectionalLanguageModel(Described):
    """p(next token | tokens before) and p(token before | tokens behind).

    Args:
        backbone: `BidirectionalLSTM`.
        tokenizer: as `Tokenizer.to_json` gives it.

    Raises:
        ValueError: the backbone is none, or has another vocabulary.
    """

    kind = "bidirectional_language_model"

    def __init__(self, backbone: nn.Module, tokenizer: dict[str, Any]) -> None:
        super().__init__()
        if not isinstance(backbone, BidirectionalLSTM):
            raise ValueError("a model of both directions has the network bidirectional_lstm, not a "
                             f"{type(backbone).__name__}: leave out the backbone")  # fmt: skip
        self.backbone, self.tokenizer = backbone, tokenizer
        if backbone.vocabulary != self.text.size:
            raise ValueError(f"the network has a vocabulary of {backbone.vocabulary} tokens, and the tokenizer one of "
                             f"{self.text.size}: give the tokenizer that it learned with")  # fmt: skip
        self.head = nn.Linear(backbone.dim, self.text.size)

    @cached_property
    def text(self) -> Tokenizer:
        """The tokenizer."""
        return tokenizer_from_json(self.tokenizer)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, T, V)` of the token behind each of `(B, T)`, and of the one before each."""
        ahead, behind = (self.head(states[-1]) for states in self.backbone.directions(tokens))
        return ahead, behind


@dataclass(frozen=True, kw_only=True)
class ELMoConfig(Optimized):
    """The numbers of a run of a model of both directions."""

    learning_rate: Rate = Warmup(Cosine(2e-3, 1e-4), updates=100)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Count = 32
    """Windows per update."""
    max_grad_norm: NonNegative | None = 1.0
    context_length: Count = 64
    """T, the number of tokens of a window, less one."""
    embed_dim: Count = 128
    """Width of the embedding, and of the states of each direction."""
    n_layers: Count = 2
    """Number of layers of each direction."""
    dropout: Unit = 0.1
    """Dropout rate of what each layer reads."""
    tokenizer: str = "characters"
    """Tokens: "characters", "bytes" or "bpe"; or the file of a tokenizer or of a model, whose tokens are taken."""
    vocabulary_size: Count = 4096
    """Number of tokens of "bpe"."""


class ELMo(Learner):
    """Predicts the next token, and the one before."""

    def __init__(
        self, model: BidirectionalLanguageModel, optimizer: Optimizer, config: ELMoConfig = ELMoConfig()
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        for parameter in (model.backbone.scores, model.backbone.gamma):  # of the mixture, which nothing here reads
            parameter.requires_grad_(False)
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def network(config: ELMoConfig, vocabulary: int) -> BidirectionalLSTM:
        """The network of these sizes."""
        return BidirectionalLSTM(vocabulary, config.embed_dim, config.n_layers, config.dropout)

    @classmethod
    def build(cls, backbone: nn.Module, config: ELMoConfig, facts: TextFacts) -> Self:
        """On a network of both directions; adds the output layer."""
        return cls(BidirectionalLanguageModel(backbone, facts.tokenizer.to_json()), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def both_losses(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of each next token, and of each token before, `(B, T)` in nats, in windows `(B, T + 1)`."""
        ahead, behind = self.model(tokens)
        backward = next_token_losses(behind[:, 1:].flip(1), tokens.flip(1))
        return next_token_losses(ahead[:, :-1], tokens), backward.flip(1)

    def losses(self, tokens: Tensor) -> Tensor:
        """The mean of both directions, `(B, T)`."""
        return torch.stack(self.both_losses(tokens)).mean(0)

    def update(self, batch: TextWindow) -> Update:
        """One step on the mean loss of both directions; `per_sample` holds the losses `(B,)`."""
        forward, backward = self.both_losses(batch.tokens)
        losses = 0.5 * (forward + backward)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss, "forward_loss": forward.mean(), "backward_loss": backward.mean()}
        metrics = {name: value.detach() for name, value in metrics.items()}
        return Update(metrics | {"grad_norm": norm}, losses.detach().mean(1))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: letters of which each depends on the one before, one layer of 12."""
        sizes = {"context_length": 6, "embed_dim": 12, "n_layers": 1, "batch_size": 16, "dropout": 0.0}
        config = ELMoConfig(learning_rate=1e-2, **sizes)  # type: ignore[arg-type]
        return RECIPE.tiny(cls, config, seed, data=text_of([markov(2_000)]))


RECIPE = Recipe(
    "elmo",
    ELMo,
    ELMoConfig,
    on_texts,
    "features of text (Peters et al. 2018): predicts the next token, and the one before, by LSTMs",
    steps=2_000,
)
