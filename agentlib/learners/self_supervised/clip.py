"""Contrastive learning of pictures and language: each picture finds its caption, and each caption its picture (CLIP).

    L = -1/2N sum_i sum_j t_ij ( log softmax_j s_ij + log softmax_j s_ji ),     s_ij = e^a cos( f(x_i), g(w_j) )
    t_ij = 1/n for each of the n captions of the batch that are the same as caption i, else 0

f reads pictures, g captions word by word (Radford et al. 2021, arXiv:2103.00020). Where all similarities are equal the
loss is ln N. The paper has the pair itself as the one target, t_ij = [i = j]: of 400 million captions hardly two are
the same. Short ones often are, and other pictures of the same caption are no negatives.

A picture is classified without an example of its class ("zero-shot") by the most similar of some descriptions. Each
word is a token here, where the paper has byte pairs; the text's features are the mean over its tokens, and e^a is at
most 100, as in the paper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone, Described, Optimized, TransformerEncoder
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range, Rate
from agentlib.core.modes import in_eval_mode
from agentlib.core.names import shown
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.families.captions import CaptionFacts, on_captions
from agentlib.metrics.features import spread

PAD, UNKNOWN, LARGEST = 0, 1, 100.0
"""The first two tokens, words come after them; and the largest e^a."""


def words_of(text: str) -> list[str]:
    """The words and marks of a text, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def pair_losses(pictures: Tensor, texts: Tensor, scale: Tensor | float, same: Tensor) -> Tensor:
    """The losses `(N,)` of pairs, from embeddings `(N, d)` of both and which captions are the same, `(N, N)` bool."""
    scores = scale * functional.normalize(pictures, dim=1) @ functional.normalize(texts, dim=1).T  # (N, N)
    share = same / same.sum(1, keepdim=True)
    return -0.5 * (share * (scores.log_softmax(1) + scores.T.log_softmax(1))).sum(1)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(Optimized):
    """The numbers of a CLIP run."""

    learning_rate: Rate = Cosine(1e-3)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Annotated[int, Range(2)] = 128
    """Pictures with their captions per update."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers of the pictures' encoder; the default depends on the kind of input."""
    temperature: Annotated[float, Range(1e-2)] = 0.07
    """Temperature e^-a of the softmax at the start; it is learned."""
    projection_dim: Count = 64
    """Width in which pictures and captions are compared."""
    embed_dim: Count = 64
    """Width of the words."""
    n_layers: Count = 2
    """Layers of the transformer that reads captions."""
    n_heads: Count = 4
    """Heads of its attention; they divide its width."""


class PicturesAndText(Described):
    """An encoder of pictures and one of texts, whose outputs are compared.

    Args:
        backbone: of pictures.
        words: the vocabulary.
        projection_dim: width in which they are compared.
        embed_dim, n_layers, n_heads: of the transformer that reads texts.
        temperature: of the softmax at the start.
    """

    kind = "pictures_and_text"

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        words: Sequence[str],
        projection_dim: int = 64,
        embed_dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.backbone, self.words, self.projection_dim = backbone, [*words], int(projection_dim)
        self.embed_dim, self.n_layers, self.n_heads, self.temperature = embed_dim, n_layers, n_heads, temperature
        self.numbers = {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}
        size = UNKNOWN + 1 + len(self.words)
        self.reader = TransformerEncoder(None, embed_dim, n_layers, n_heads, vocabulary=size, positions="sinusoidal")
        self.of_picture = nn.Linear(int(backbone.feature_dim), projection_dim, bias=False)  # type: ignore[arg-type]
        self.of_text = nn.Linear(embed_dim, projection_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def pictures(self, x: Tensor) -> Tensor:
        """Embeddings `(B, d)` of pictures."""
        return self.of_picture(self.backbone(x))  # type: ignore[no-any-return]

    def texts(self, tokens: Tensor) -> Tensor:
        """Embeddings `(B, d)` of tokens `(B, T)`, filled up by zeros."""
        return self.of_text(self.reader(tokens, tokens != PAD))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Logits `(B, n)` of each of n texts `(n, T)` for each picture."""
        pictures, texts = functional.normalize(self.pictures(x), dim=1), functional.normalize(self.texts(tokens), dim=1)
        return self.log_scale.exp() * pictures @ texts.T

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The words of texts as `(n, T)` int64, filled up by zeros; those that are not in the vocabulary are ones."""
        rows = [[self.numbers.get(word, UNKNOWN) for word in words_of(text)] or [UNKNOWN] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])

    def classify(self, x: Tensor, descriptions: Sequence[str]) -> Tensor:
        """Probabilities `(B, n)` of n descriptions for each picture, in eval mode and without gradients.

        Raises:
            ValueError: a description has a word that no caption had in training.
        """
        new = [word for text in descriptions for word in words_of(text) if word not in self.numbers]
        if new or not descriptions:
            wrong = f"no caption had the word {shown(new[0])} in training" if new else "there are no descriptions"
            raise ValueError(f"{wrong}: give descriptions in its words, such as {', '.join(self.words[:8])}")
        with in_eval_mode(self):
            logits: Tensor = self(x, self.tokens(descriptions).to(self.log_scale.device))
            return logits.softmax(1)


class CLIP(Learner):
    """Contrastive learning of pictures and their captions."""

    def __init__(self, network: PicturesAndText, optimizer: Optimizer, config: CLIPConfig = CLIPConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: CLIPConfig, facts: CaptionFacts) -> Self:
        words = sorted({word for caption in facts.captions for word in words_of(caption)})
        sizes = (config.projection_dim, config.embed_dim, config.n_layers, config.n_heads)
        return cls(PicturesAndText(backbone, words, *sizes, config.temperature), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Embeddings of pictures, `(B, d)`."""
        return self.network.pictures(x)

    def update(self, batch: Examples) -> Update:
        """One step on pictures `(B, ...)` and tokens `(B, T)`; `per_sample` holds the loss of each pair `(B,)`."""
        tokens = batch.y
        assert tokens is not None
        pictures, texts = self.network.pictures(batch.x), self.network.texts(tokens)  # (B, d)
        same = (tokens[:, None] == tokens).all(-1)  # (B, B)
        scale = self.network.log_scale.exp()
        losses = pair_losses(pictures, texts, scale, same)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        with torch.no_grad():
            self.network.log_scale.clamp_(max=math.log(LARGEST))
        spreads = {"spread": spread(pictures.detach()), "text_spread": spread(texts.detach())}
        metrics = {"loss": loss.detach(), "scale": scale.detach(), "grad_norm": norm}
        return Update(metrics | spreads, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: one shape in 16 x 16 pixels, an MLP of 16, a transformer of one layer."""
        sizes: Any = {"batch_size": 16, "net_arch": (16,), "projection_dim": 8, "embed_dim": 8, "n_layers": 1}
        config = CLIPConfig(learning_rate=3e-3, n_heads=2, **sizes)
        scenes = shape_scenes(32, size=16, most=1)
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(scenes, scenes, scenes))


SUMMARY = "features of pictures by their captions, classes from descriptions (Radford et al. 2021)"
RECIPE = Recipe("clip", CLIP, CLIPConfig, on_captions, SUMMARY, steps=2_000)
