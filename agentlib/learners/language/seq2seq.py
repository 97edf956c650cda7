"""Sequence to sequence: from a text in one language to one in another, by a transformer, or an LSTM with attention.

    L = -1/T sum_t sum_v q_t(v) log p(v | y_1, ..., y_{t-1}, x)       q_t = (1 - e) [v = y_t] + e / V

y_T is the end of the text, and e the label smoothing (Szegedy et al. 2016), of all V tokens, as torch has it. The loss
of a batch is the mean over its tokens; padding does not count. While learning the decoder reads the true tokens before
(teacher forcing); afterwards its own, by beam search.

The transformer is Vaswani et al. 2017's (arXiv:1706.03762), with pre-norm. `backbone="lstm"` is Sutskever et al. 2014's
(arXiv:1409.3215) with an encoder that reads in both directions and, unless `attention="none"`, Luong et al. 2015's
global attention (arXiv:1508.04025), without their input feeding, so that attention is computed for all steps at once.
Output and target's embedding share their weights, in the output divided by the root of the width (Raffel et al. 2020),
which is the same as an embedding times that. We differ from all of them in sizes, which fit small corpora.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import (
    EncoderDecoder,
    Optimized,
    RecurrentEncoderDecoder,
    TransformerDecoder,
    TransformerEncoder,
    adam,
    lora,
    with_gradient_checkpointing,
)
from agentlib.backbones.luong import Attention
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Rule, Source, Step, Update, Warmup
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data.parallel import PAD, ParallelBatch, ParallelParts, parallel_text, reversal
from agentlib.families.texts import TextFacts
from agentlib.families.translations import PairFacts, on_translations
from agentlib.learners.language.translator import Translator


def token_losses(logits: Tensor, tokens: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-sum_v q(v) log p(v) of each token, `(B, T)` in nats; 0 for padding.

    Args:
        logits: `(B, T, V)`.
        tokens: `(B, T)`, those to be predicted.
        label_smoothing: e, the share of q that all V tokens have alike.
    """
    losses = functional.cross_entropy(
        logits.flatten(0, 1), tokens.flatten(), ignore_index=PAD, reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(tokens.shape)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(Optimized):
    """The numbers of a run on pairs of texts."""

    learning_rate: Rate = Warmup(Cosine(2e-3, 1e-5), updates=200)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Count = 64
    """Pairs of texts per update."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer alone, and compute the rest again: the same update in less memory, uncompiled."""
    max_grad_norm: NonNegative | None = 1.0
    beta2: Unit = 0.98
    """Decay of Adam's average of squared gradients."""
    label_smoothing: Unit = 0.1
    """Share of the target that all tokens have alike."""
    attention: Attention = "general"
    """Luong's attention of an LSTM or GRU: "dot", "general", "concat", or "none"."""
    embed_dim: Count = 128
    """Width of the tokens, and of an LSTM."""
    n_layers: Count = 2
    """Number of layers of the encoder, and of the decoder."""
    n_heads: Count = 4
    """Number of heads of each attention of the transformer."""
    dropout: Unit = 0.1
    """Dropout rate of embeddings, attention weights and branches."""
    max_length: Count = 128
    """Number of tokens of a text, at most."""
    tokenizer: str = "characters"
    """Tokens of both languages: "characters", "bytes" or "bpe"; or the file of a model, whose tokens are taken."""
    vocabulary_size: Count = 4096
    """Number of tokens of "bpe"."""
    tuning: Literal["full", "lora", "prompt"] = "full"
    """Weights that are trained: all; or, of a saved backbone, changes of low rank (LoRA) or a prompt before sources."""
    lora_rank: Count = 8
    """Rank of these changes."""
    prompt_length: Count = 8
    """Number of vectors of a learned prompt."""

    def optimizer(self) -> Rule:
        is_usual = self.optimizer_name == "adam"
        return adam(self.learning_rate, betas=(0.9, self.beta2)) if is_usual else super().optimizer()


class Seq2Seq(Learner):
    """Predicts the target's next token, by any network that reads one sequence and writes another."""

    def __init__(self, model: Translator, optimizer: Optimizer, config: Seq2SeqConfig = Seq2SeqConfig()) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def network(config: Seq2SeqConfig, vocabulary: int, name: str = "transformer") -> nn.Module:
        """The network of these sizes: "transformer", "lstm" or "gru"."""
        recurrent = vocabulary, config.embed_dim, config.n_layers, config.attention, config.dropout
        if name != "transformer":
            return RecurrentEncoderDecoder(*recurrent, name)
        shape = config.embed_dim, config.n_layers, config.n_heads
        more = {"vocabulary": vocabulary, "positions": "sinusoidal", "dropout": config.dropout, "activation": "relu"}
        return EncoderDecoder(
            TransformerEncoder(None, *shape, **more),  # type: ignore[arg-type]
            TransformerDecoder(None, *shape, window=config.max_length, cross=True, **more),  # type: ignore[arg-type]
        )

    @classmethod
    def build(cls, backbone: nn.Module, config: Seq2SeqConfig, facts: PairFacts | TextFacts) -> Self:
        """On a network of two sequences; the output shares the weights of the target's embedding."""
        if config.gradient_checkpointing:
            with_gradient_checkpointing(backbone)
        if config.tuning != "full":
            backbone = lora(backbone, config.lora_rank if config.tuning == "lora" else 0)
        prompt_length = config.prompt_length if config.tuning == "prompt" else 0
        tokenizer = facts.tokenizer.to_json()
        model = Translator(backbone, tokenizer, config.max_length, prompt_length=prompt_length)
        return cls(model, config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def losses(self, source: Tensor, target: Tensor) -> Tensor:
        """-log p of each token `(B, T)` in nats, 0 for padding; the batch is as `ParallelBatch` has it."""
        return token_losses(self.model(source, target[:, :-1]), target[:, 1:])

    def update(self, batch: ParallelBatch) -> Update:
        """One step on the mean loss of a batch's tokens; `per_sample` holds the means of the pairs `(B,)`."""
        logits, tokens = self.model(batch.source, batch.target[:, :-1]), batch.target[:, 1:]
        losses = token_losses(logits, tokens, self.config.label_smoothing)
        counts = (tokens != PAD).sum(1)  # (B,)
        loss = losses.sum() / counts.sum()
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, losses.detach().sum(1) / counts)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: words of two lengths, to be spelled backwards, one layer of 16."""
        words = reversal(200).source
        sizes = {"embed_dim": 16, "n_layers": 1, "n_heads": 2, "batch_size": 16, "max_length": 8, "dropout": 0.0}
        config = Seq2SeqConfig(learning_rate=1e-2, **sizes)  # type: ignore[arg-type]
        pairs = [(word[:size], word[:size][::-1]) for word, size in zip(words, [2, 3] * 100, strict=True)]
        parts = ParallelParts(parallel_text(pairs[:180]), parallel_text(pairs[180:190]), parallel_text(pairs[190:]))
        return RECIPE.tiny(cls, config, seed, data=parts)


RECIPE = Recipe(
    "seq2seq",
    Seq2Seq,
    Seq2SeqConfig,
    on_translations,
    "translation (Vaswani et al. 2017; Luong et al. 2015): from one text to another, by transformer or LSTM",
    steps=3_000,
)
