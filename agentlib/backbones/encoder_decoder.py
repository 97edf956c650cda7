"""An encoder and a decoder together (Vaswani et al. 2017, arXiv:1706.03762): p(y_t | y_1, ..., y_{t-1}, x)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.specs import Described
from agentlib.backbones.transformer import TransformerDecoder


class EncoderDecoder(Described):
    """An encoder whose tokens a decoder reads: translation, captions.

    Args:
        encoder: a network whose `maps` end in tokens `(B, S, dim)`, such as `TransformerEncoder` or `ViT`.
        decoder: with `cross=True`, of the encoder's width.
    """

    kind = "encoder_decoder"

    def __init__(self, encoder: Backbone, decoder: TransformerDecoder) -> None:
        super().__init__()
        if not decoder.cross:
            raise ValueError("the decoder does not read an encoder: build it with cross=True")
        if encoder.feature_dim != decoder.dim:
            raise ValueError(f"encoder and decoder have one width, not {encoder.feature_dim} and {decoder.dim}")
        self.encoder, self.decoder, self.feature_dim = encoder, decoder, decoder.dim

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Features `(B, T, dim)` of the target's steps, each of which reads the source and the steps before it.

        Args:
            source: the input of the encoder.
            target: the input of the decoder.
            source_mask: `(B, S)`, False where a token of the source is padding.
        """
        features, _ = self.decoder(target, memory=self.read(source, source_mask), memory_mask=source_mask)
        return features  # type: ignore[no-any-return]

    def read(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The tokens `(B, S, dim)` of the source, for decoding step by step: `decoder(token, state, memory=tokens)`."""
        masks = () if source_mask is None else (source_mask,)
        return self.encoder.maps(source, *masks)[-1]

    @property
    def reach(self) -> tuple[float, float]:
        """Tokens of a source and of a target that are read at once, at most."""
        return getattr(self.encoder, "reach", math.inf), self.decoder.reach

    @property
    def source_embedding(self) -> nn.Module:
        """The embedding of an encoder of tokens, for what is read as vectors `(B, S, dim)` in place of them."""
        encoder: Any = self.encoder
        content: nn.Module = encoder.embedding.content
        return content

    @property
    def target_embedding(self) -> nn.Module:
        """The embedding whose weights an output may share."""
        return self.decoder.embedding.content

    def whole(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """As `forward`, for targets that are not longer than the decoder's window: quicker to learn from."""
        return self.decoder.whole(target, self.read(source, source_mask), source_mask)

    def weights(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """The attention `(B, T, S)` by which the target's steps read the source: the mean of all layers and heads."""
        return self.decoder.weights(target, self.read(source, source_mask), source_mask)

    def begin(self, source: Tensor, source_mask: Tensor | None = None) -> Any:
        """The state before the first token of the target; a tree of tensors with the batch first.

        It holds the keys and values of the source, so that they are computed once.
        """
        memory = self.read(source, source_mask)
        layers: Any = self.decoder.stack.layers
        keys_and_values = tuple(layer.cross.keys_and_values(memory) for layer in layers)
        return keys_and_values, source_mask, self.decoder.trimmed(self.decoder.initial_state(len(source)), 0)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Features `(B, dim)` after one more token `(B,)`, and the next state."""
        memory, source_mask, cache = state
        features, cache = self.decoder(token[:, None], cache, memory=memory, memory_mask=source_mask)
        return features[:, 0], (memory, source_mask, cache)
