"""BERT: an encoder that learns from a text what was hidden in it (Devlin et al. 2019, arXiv:1810.04805).

    L = -1/|M| sum_{t in M} log p(x_t | x~) - log p(y | x~)          y = 1 where the second piece is the next one

Of 15% of the tokens (M), 80% are replaced by `<mask>`, 10% by any token and 10% by themselves, so that the network has
to know each of its tokens; only these are predicted. A model that knows nothing has ln V + ln 2. In a Markov chain the
best one has the entropy of a letter given its neighbours, which is less than the entropy rate.

Each example is `<cls>`, a piece of the text, `<sep>`, another piece, `<sep>`; in half of them the second piece follows
the first. We differ from BERT in pre-norm layers, in no embedding of segments, which `<sep>` tells apart, and in
choosing each token by itself, with a probability of .15. Fine-tuning is any learner on the backbone, whose feature is
that of `<cls>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Optimized, TransformerEncoder, adamw, initialize, with_gradient_checkpointing
from agentlib.core import Learner, Linear, Optimizer, Recipe, Rule, Source, Step, Update, Warmup
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data.masking import SPECIAL, MaskedPairs
from agentlib.data.text import markov, text_of
from agentlib.families.masked_texts import on_masked_texts
from agentlib.families.texts import TextFacts
from agentlib.learners.language.masked_model import MaskedLanguageModel

DEVIATION = 0.02
"""Of the first embeddings."""


def masked_losses(logits: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """-log p of each chosen token, `(B, T)` in nats; 0 for all others.

    Args:
        logits: `(B, T, V)`.
        tokens: `(B, T)`, the true ones; those from V on are special, and not chosen.
        chosen: `(B, T)` bool.
    """
    labels = tokens.masked_fill(~chosen, -100).flatten()
    losses = functional.cross_entropy(logits.flatten(0, 1), labels, ignore_index=-100, reduction="none")
    return losses.view(tokens.shape)


@dataclass(frozen=True, kw_only=True)
class BERTConfig(Optimized):
    """The numbers of a run with hidden tokens."""

    learning_rate: Rate = Warmup(Linear(1e-3, 0.0), updates=100)
    """Learning rate of AdamW: a number or a schedule."""
    batch_size: Count = 32
    """Pairs of pieces per update."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer alone, and compute the rest again: the same update in less memory, uncompiled."""
    max_grad_norm: NonNegative | None = 1.0
    weight_decay: NonNegative = 0.01
    """Weight decay of matrices and embeddings."""
    next_weight: NonNegative = 1.0
    """Weight of the loss of "is it the next piece?"; 0 leaves it out."""
    context_length: Count = 67
    """Number of tokens of an example: two pieces of (context_length - 3) / 2, and three special ones."""
    embed_dim: Count = 128
    """Width of the tokens."""
    n_layers: Count = 4
    """Number of layers of the transformer."""
    n_heads: Count = 4
    """Number of heads of each attention."""
    dropout: Unit = 0.1
    """Dropout rate of embeddings, attention weights and branches."""
    tokenizer: str = "characters"
    """Tokens: "characters", "bytes" or "bpe"; or the file of a tokenizer or of a model, whose tokens are taken."""
    vocabulary_size: Count = 4096
    """Number of tokens of "bpe"."""
    optimizer_name: Literal["adam", "adamw", "rmsprop", "sgd", "adagrad", "lars"] = "adamw"

    def optimizer(self) -> Rule:
        is_usual = self.optimizer_name == "adamw"
        return adamw(self.learning_rate, weight_decay=self.weight_decay) if is_usual else super().optimizer()


class BERT(Learner):
    """Predicts hidden tokens, and whether a piece of the text follows another."""

    def __init__(self, model: MaskedLanguageModel, optimizer: Optimizer, config: BERTConfig = BERTConfig()) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def network(config: BERTConfig, vocabulary: int) -> TransformerEncoder:
        """The encoder of these sizes, with BERT's first weights."""
        network = TransformerEncoder(
            None, config.embed_dim, config.n_layers, config.n_heads, vocabulary=vocabulary + SPECIAL,
            max_length=config.context_length, dropout=config.dropout, pool="first",
        )  # fmt: skip
        initialize(network, "truncated_normal")  # of deviation 0.02, biases 0
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=DEVIATION)
        return network

    @classmethod
    def build(cls, backbone: nn.Module, config: BERTConfig, facts: TextFacts) -> Self:
        """On an encoder of tokens; the output shares the weights of the embedding."""
        if config.gradient_checkpointing:
            with_gradient_checkpointing(backbone)
        return cls(MaskedLanguageModel(backbone, facts.tokenizer.to_json()), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        return self.model

    def losses(self, batch: MaskedPairs) -> tuple[Tensor, Tensor]:
        """-log p of the chosen tokens `(B, T)`, 0 elsewhere, and of whether the piece is the next `(B,)`."""
        logits, follows = self.model(batch.inputs)
        hidden = masked_losses(logits, batch.tokens, batch.chosen)
        return hidden, functional.cross_entropy(follows, batch.is_next, reduction="none")

    def update(self, batch: MaskedPairs) -> Update:
        """One step on both losses; `per_sample` holds those of "is it the next?" `(B,)`."""
        hidden, follows = self.losses(batch)
        masked_loss = hidden.sum() / batch.chosen.sum().clamp(min=1)
        loss = masked_loss + self.config.next_weight * follows.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss, "masked_loss": masked_loss, "next_loss": follows.mean()}
        return Update({name: value.detach() for name, value in metrics.items()} | {"grad_norm": norm}, follows.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: letters of which each depends on the one before, one layer of 16."""
        sizes = {"context_length": 11, "embed_dim": 16, "n_layers": 1, "n_heads": 2, "batch_size": 16, "dropout": 0.0}
        config = BERTConfig(learning_rate=1e-2, **sizes)  # type: ignore[arg-type]
        return RECIPE.tiny(cls, config, seed, data=text_of([markov(2_000)]))


RECIPE = Recipe(
    "bert",
    BERT,
    BERTConfig,
    on_masked_texts,
    "features of text (Devlin et al. 2019): predicts hidden tokens, and whether a piece follows another",
    steps=2_000,
)
