"""Captions of pictures, word by word: an LSTM or a transformer reads the map of a convolutional network.

    L = -1/T sum_t log p(w_t | w_1, ..., w_{t-1}, x)          p = softmax(W h_t + b)

h_t are the features of a decoder that attends to the places of the map (Xu et al. 2015, arXiv:1502.03044), by Luong's
attention (`agentlib.backbones.luong`), which is computed after the step where theirs is before; or by that of a
transformer. With `attention="none"` an LSTM knows of the picture only the state in which it begins: one vector in, a
sequence out (Vinyals et al. 2015, arXiv:1411.4555). The picture's network is trained along; theirs was pretrained.

w_T is the end of the caption. The loss of a batch is the mean over its words; padding does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import Tensor, nn

from agentlib.backbones import (
    CNN,
    EncoderDecoder,
    MapTokens,
    Optimized,
    RecurrentEncoderDecoder,
    TransformerDecoder,
)
from agentlib.backbones.luong import Attention
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update, Warmup
from agentlib.core.config import Count, NonNegative, Rate, Unit
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.data.parallel import PAD, SPECIAL
from agentlib.data.tokens import Words
from agentlib.families.captions import CaptionFacts, on_captions
from agentlib.learners.language.captioner import Captioner
from agentlib.learners.language.seq2seq import token_losses


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig(Optimized):
    """The numbers of a run on pictures with captions."""

    learning_rate: Rate = Warmup(Cosine(2e-3, 1e-5), updates=100)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Count = 64
    """Pictures with their captions per update."""
    max_grad_norm: NonNegative | None = 1.0
    decoder: Literal["lstm", "gru", "transformer"] = "lstm"
    """Network that writes captions."""
    attention: Attention = "general"
    """Luong's attention of an LSTM or GRU to the map: "dot", "general", "concat"; or "none", one vector for all."""
    embed_dim: Count = 128
    """Width of words, of the decoder's state, and of the places of the map."""
    n_layers: Count = 1
    """Number of layers of the decoder."""
    n_heads: Count = 4
    """Number of heads of each attention of a transformer."""
    dropout: Unit = 0.1
    """Dropout rate of the decoder."""
    max_length: Count = 32
    """Number of words and marks of a caption, at most, its end among them."""

    def network(self, shape: tuple[int, ...]) -> nn.Module:
        """The network of pictures that "auto" means: convolutions down to a quarter of the sides."""
        return CNN(shape, (32, "max", 64, "max", 64), feature_dim=None, norm="batch")


class Captions(Learner):
    """Predicts a caption's next word."""

    def __init__(self, network: Captioner, optimizer: Optimizer, config: CaptionsConfig = CaptionsConfig()) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: CaptionsConfig, facts: CaptionFacts) -> Self:
        """On a network of pictures, with a decoder of the config's sizes for the words of the training part."""
        words = Words.of(facts.captions, SPECIAL)
        encoder = MapTokens(backbone, facts.space.shape, config.embed_dim)
        decoder: nn.Module
        if config.decoder == "transformer":
            sizes = config.embed_dim, config.n_layers, config.n_heads
            more: Any = {"vocabulary": words.size, "positions": "sinusoidal", "dropout": config.dropout, "cross": True}
            writer = TransformerDecoder(None, *sizes, window=config.max_length, **more)
            decoder = EncoderDecoder(encoder, writer)
        else:
            how = config.n_layers, config.attention, config.dropout, config.decoder, encoder
            decoder = RecurrentEncoderDecoder(words.size, config.embed_dim, *how)
        return cls(Captioner(decoder, words.to_json(), config.max_length), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The tokens `(B, max_length)` of the most probable words, one after another."""
        return self.network.answer(x)

    def losses(self, x: Tensor, tokens: Tensor) -> Tensor:
        """-log p of each word `(B, T)` in nats, 0 for padding, of pictures and of tokens as `Captioner` has them."""
        return token_losses(self.network(x, tokens[:, :-1]), tokens[:, 1:])

    def update(self, batch: Examples) -> Update:
        """One step on the mean loss of a batch's words; `per_sample` holds the means of the captions `(B,)`."""
        assert batch.y is not None
        losses = self.losses(batch.x, batch.y)
        counts = (batch.y[:, 1:] != PAD).sum(1)  # (B,)
        loss = losses.sum() / counts.sum()
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, losses.detach().sum(1) / counts)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: one shape in 16 x 16 pixels, an LSTM of 16."""
        config = CaptionsConfig(learning_rate=1e-2, batch_size=16, embed_dim=16, dropout=0.0, max_length=8)
        scenes = shape_scenes(32, size=16, most=1)
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(scenes, scenes, scenes))


RECIPE = Recipe(
    "captions",
    Captions,
    CaptionsConfig,
    on_captions,
    "captions of pictures, word by word, and where each word looks (Vinyals et al. 2015; Xu et al. 2015)",
    steps=1_500,
)
