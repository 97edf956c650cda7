"""GPT: a transformer that predicts the next token (Radford et al. 2018; GPT-2, Radford et al. 2019).

    L = -1/T sum_t log p(x_{t+1} | x_1, ..., x_t)             perplexity = exp(L), bits = L / ln 2

A model that gives all V tokens the same probability has L = ln V; the best one has the entropy rate of the text. Each
token of a window is a target, and reads those of its window that stand before it, by a causal mask.

As in GPT-2, the layers are pre-norm with learned positions, tanh-GELU and an output that shares the embedding's
weights; these, and all matrices, start with a deviation of 0.02, the last ones of residual branches with that divided
by the root of their number. Sizes and rates are those of nanoGPT's run on a processor (Karpathy 2022). We differ from
GPT-2 in a dropout within the MLP, too, and in drawing windows from anywhere in the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Optimized, TransformerDecoder, adamw, initialize, lora, with_gradient_checkpointing
from agentlib.backbones.attention import Layer
from agentlib.backbones.transformer import Positions
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Rule, Source, Step, Update, Warmup
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data.text import TextWindow, markov, text_of
from agentlib.families.texts import TextFacts, on_texts
from agentlib.learners.language.language_model import LanguageModel

DEVIATION = 0.02
"""Of the first weights."""


def next_token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p of each next token, `(B, T)` in nats.

    Args:
        logits: `(B, T, V)`, after each of the first T tokens.
        tokens: `(B, T + 1)`.
    """
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
        logits.shape[:2]
    )


@dataclass(frozen=True, kw_only=True)
class GPTConfig(Optimized):
    """The numbers of a language model's run."""

    learning_rate: Rate = Warmup(Cosine(1e-3, 1e-4), updates=100)
    """Learning rate of AdamW: a number or a schedule."""
    batch_size: Count = 12
    """Windows per update."""
    gradient_accumulation_steps: Count = 1
    """Parts of a batch that are computed one after the other: the same update in less memory."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer alone, and compute the rest again: the same update in less memory, uncompiled."""
    max_grad_norm: NonNegative | None = 1.0
    weight_decay: NonNegative = 0.1
    """Weight decay of matrices and embeddings."""
    beta2: Unit = 0.99
    """Decay of AdamW's average of squared gradients."""
    context_length: Count = 64
    """T, the number of tokens that are read, the present one among them."""
    embed_dim: Count = 128
    """Width of the tokens."""
    n_layers: Count = 4
    """Number of layers of the transformer."""
    n_heads: Count = 4
    """Number of heads of each attention."""
    dropout: Unit = 0.0
    """Dropout rate of embeddings, attention weights and branches."""
    positions: Positions = "learned"
    """Positions: "learned", "sinusoidal", "rotary" or "none"."""
    tokenizer: str = "characters"
    """Tokens: "characters", "bytes" or "bpe"; or the file of a tokenizer or of a model, whose tokens are taken."""
    vocabulary_size: Count = 4096
    """Number of tokens of "bpe"."""
    tuning: Literal["full", "head", "lora"] = "full"
    """Weights that are trained: all; a new output layer alone; or changes of low rank (LoRA), of a saved backbone."""
    lora_rank: Count = 8
    """Rank of these changes."""
    optimizer_name: Literal["adam", "adamw", "rmsprop", "sgd", "adagrad", "lars"] = "adamw"

    def optimizer(self) -> Rule:
        is_usual = self.optimizer_name == "adamw"
        numbers = {"betas": (0.9, self.beta2), "weight_decay": self.weight_decay}
        return adamw(self.learning_rate, **numbers) if is_usual else super().optimizer()  # type: ignore[arg-type]


class GPT(Learner):
    """Predicts the next token, by any network with memory that reads tokens."""

    is_mean_over_samples = True

    def __init__(self, model: LanguageModel, optimizer: Optimizer, config: GPTConfig = GPTConfig()) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def network(config: GPTConfig, vocabulary: int) -> TransformerDecoder:
        """The transformer of these sizes, with GPT-2's first weights."""
        network = TransformerDecoder(
            None, config.embed_dim, config.n_layers, config.n_heads, vocabulary=vocabulary, positions=config.positions,
            max_length=config.context_length, window=config.context_length, dropout=config.dropout,
            activation="gelu_tanh",
        )  # fmt: skip
        initialize(network, "truncated_normal")  # of deviation 0.02, biases 0
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=DEVIATION)
            elif isinstance(module, Layer):
                module.scale_branches((2 * config.n_layers) ** -0.5)
        return network

    @classmethod
    def build(cls, backbone: nn.Module, config: GPTConfig, facts: TextFacts) -> Self:
        """On a network with memory that reads tokens; the output of a transformer shares its embedding's weights.

        With tuning="head" it begins as them.
        """
        context = None
        if isinstance(backbone, TransformerDecoder):
            context = int(min(backbone.reach, config.context_length))
        if config.gradient_checkpointing:
            with_gradient_checkpointing(backbone)
        is_tied = context is not None and config.tuning != "head"
        if config.tuning != "full":
            backbone = lora(backbone, config.lora_rank if config.tuning == "lora" else 0)
        model = LanguageModel(backbone, facts.tokenizer.to_json(), context, is_tied)
        if isinstance(backbone, TransformerDecoder) and model.head is not None:
            model.head.load_state_dict(backbone.embedding.content.state_dict())
        return cls(model, config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def losses(self, tokens: Tensor) -> Tensor:
        """-log p of each next token, `(B, T)` in nats, in windows `(B, T + 1)`."""
        return next_token_losses(self.model.logits(tokens[:, :-1]), tokens)

    def update(self, batch: TextWindow) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses `(B,)`."""
        found = list[Tensor]()

        def parts() -> Iterator[Tensor]:
            for tokens in batch.tokens.chunk(self.config.gradient_accumulation_steps):
                losses = self.losses(tokens)
                found.append(losses.detach())
                yield losses.mean() * (len(tokens) / len(batch.tokens))

        norm = self.step(parts(), batch.clock)
        losses = torch.cat(found)
        return Update({"loss": losses.mean(), "grad_norm": norm}, losses.mean(1))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: letters of which each depends on the one before, one layer of 16."""
        sizes = {"context_length": 8, "embed_dim": 16, "n_layers": 1, "n_heads": 2, "batch_size": 16}
        config = GPTConfig(learning_rate=1e-2, **sizes)  # type: ignore[arg-type]
        return RECIPE.tiny(cls, config, seed, data=text_of([markov(2_000)]))


RECIPE = Recipe(
    "gpt",
    GPT,
    GPTConfig,
    on_texts,
    "language model (Radford et al. 2018): predicts the next character, byte or piece of a text",
    steps=2_000,
)
