"""Attention, and the layers that transformers are made of (Vaswani et al. 2017, arXiv:1706.03762).

    attention(Q, K, V) = softmax(Q K^T / sqrt(d) + mask) V            d numbers per head
    pre-norm    x <- x + F(LN(x)), and a last LN on top                 (Xiong et al. 2020, arXiv:2002.04745)
    post-norm   x <- LN(x + F(x)), as in the paper

A mask of bools says what may be read: True reads, as in torch's `scaled_dot_product_attention`, and contrary to torch's
`MultiheadAttention`. Weights start as Xavier's, and the last matrix of every residual branch is divided by the root of
the number of branches, so that the sum of all of them starts at the size of one (Radford et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from agentlib.backbones.layers import ACTIVATIONS
from agentlib.core.names import look_up

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each `(B, heads, S, d)`."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    second_order: bool = False,
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + mask) V.

    Args:
        query: `(B, heads, T, d)`.
        key: `(B, heads, S, d)`.
        value: `(B, heads, S, d)`.
        mask: broadcasts to `(B, heads, T, S)`: bools, True where a key may be read, or floats that are added.
        causal: step t reads steps 0 to t; instead of a mask.
        dropout: share of the attention weights that are dropped.
        second_order: by torch's plain operations, which can be differentiated twice and under `vmap`.
    """
    if second_order:
        with sdpa_kernel(SDPBackend.MATH):
            return functional.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    return functional.scaled_dot_product_attention(query, key, value, mask, dropout, causal)


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): pairs of numbers turned by an angle that grows with time.

    The product of a query and a key then depends on their distance only.

    Args:
        x: `(B, heads, T, d)`.
        position: `(B, T)`.
    """
    half = x.shape[-1] // 2
    precision = torch.promote_types(x.dtype, torch.float32)
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=precision) / half)  # (d / 2,)
    angle = position[:, None, :, None] * rate  # (B, 1, T, d / 2)
    cos, sin = angle.cos(), angle.sin()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def sinusoids(position: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The positions of the paper's section 3.5, `(..., dim)` for positions `(...)`: sines and cosines by turns."""
    rate = 10_000.0 ** (-torch.arange(0, dim, 2, device=position.device, dtype=dtype) / dim)  # (dim / 2,)
    angle = position[..., None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :dim]


class MultiHeadAttention(nn.Module):
    """Attention by several heads: of a sequence to itself, or to another one.

    Args:
        dim: width of the sequence.
        heads: they share the width; each has `dim / heads` numbers.
        dropout: of attention weights.
        second_order: see `attend`.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, second_order: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide the width {dim}: choose heads among the divisors of {dim}")
        self.dim, self.heads, self.dropout, self.second_order = dim, heads, dropout, second_order
        self.inputs = nn.Linear(dim, 3 * dim)  # query, key and value, in torch's order
        self.output = nn.Linear(dim, dim)
        for linear in (self.inputs, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeyValue | None = None,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        position: Tensor | None = None,
        past: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """`(B, T, dim)`, and the keys and values that it read.

        Args:
            x: `(B, T, dim)`, the source of the queries.
            memory: `(B, S, dim)`, the source of keys and values, or these; x itself by default.
            mask: see `attend`.
            causal: see `attend`.
            position: `(B, T)`, for rotary positions.
            past: keys and values from before, read along with those of x.
        """
        if memory is None:
            query, key, value = self._heads(self.inputs(x), 3)
        else:
            weight, bias = self.inputs.weight[: self.dim], self.inputs.bias[: self.dim]
            (query,) = self._heads(functional.linear(x, weight, bias), 1)
            key, value = self.keys_and_values(memory) if isinstance(memory, Tensor) else memory
        if position is not None:
            query, key = rotated(query, position), rotated(key, position)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)  # (B, heads, S + T, d)
        dropout = self.dropout if self.training else 0.0
        read = attend(query, key, value, mask, causal=causal, dropout=dropout, second_order=self.second_order)
        output: Tensor = self.output(read.transpose(1, 2).flatten(2))  # (B, T, dim)
        return output, (key, value)

    def weights(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(d)) `(B, heads, T, S)` of the queries of x and the keys of a memory; a mask of bools."""
        (query,) = self._heads(functional.linear(x, self.inputs.weight[: self.dim], self.inputs.bias[: self.dim]), 1)
        scores = query @ self.keys_and_values(memory)[0].transpose(2, 3) / math.sqrt(query.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)

    def keys_and_values(self, memory: Tensor) -> KeyValue:
        """Those of a memory `(B, S, dim)`."""
        weight, bias = self.inputs.weight[self.dim :], self.inputs.bias[self.dim :]
        key, value = self._heads(functional.linear(memory, weight, bias), 2)
        return key, value

    def _heads(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """`(B, T, count * dim)` to `count` tensors `(B, heads, T, d)`."""
        parts: tuple[Tensor, ...] = x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return parts


class Layer(nn.Module):
    """One layer: self-attention, attention to a memory if `cross`, and an MLP, each a residual branch."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        *,
        cross: bool = False,
        norm_first: bool = True,
        dropout: float = 0.0,
        activation: str = "gelu",
        eps: float = 1e-5,
        second_order: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.norm_first = dim, norm_first
        self.attention = MultiHeadAttention(dim, heads, dropout, second_order)
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.cross = MultiHeadAttention(dim, heads, dropout, second_order) if cross else None
        self.cross_norm = nn.LayerNorm(dim, eps) if cross else None
        widen, narrow = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        for linear in (widen, narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.mlp = nn.Sequential(widen, look_up("activation", activation, ACTIVATIONS)(), nn.Dropout(dropout), narrow)
        self.mlp_norm = nn.LayerNorm(dim, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
        position: Tensor | None = None,
        past: KeyValue | None = None,
        memory: Tensor | KeyValue | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """`(B, T, dim)`, and the keys and values of the self-attention; arguments as `MultiHeadAttention` has them."""
        read, present = self.attention(
            self._before(self.attention_norm, x), mask=mask, causal=causal, position=position, past=past
        )
        x = self._after(self.attention_norm, x + self.dropout(read))
        if self.cross is not None and self.cross_norm is not None:
            read, _ = self.cross(self._before(self.cross_norm, x), memory, memory_mask)
            x = self._after(self.cross_norm, x + self.dropout(read))
        x = x + self.dropout(self.mlp(self._before(self.mlp_norm, x)))
        return self._after(self.mlp_norm, x), present

    def cross_weights(self, x: Tensor, memory: Tensor, memory_mask: Tensor | None = None, **reading: Any) -> Tensor:
        """The weights `(B, heads, T, S)` of the attention to a memory; arguments as `forward` has them."""
        assert self.cross is not None
        assert self.cross_norm is not None
        read, _ = self.attention(self._before(self.attention_norm, x), **reading)
        x = self._after(self.attention_norm, x + self.dropout(read))
        return self.cross.weights(self._before(self.cross_norm, x), memory, memory_mask)

    def _before(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return x if self.norm_first else norm(x)

    def scale_branches(self, factor: float) -> None:
        """Multiplies the last matrix of every residual branch."""
        ends = [self.attention.output, self.mlp[-1], *([self.cross.output] if self.cross is not None else [])]
        with torch.no_grad():
            for end in ends:
                end.weight.mul_(factor)  # type: ignore[operator]


class Stack(nn.Module):
    """Layers one on top of the other, and with pre-norm a last normalization.

    Args:
        layers: at least one.
        gradient_checkpointing: to learn, keep the input of each layer alone, and compute the rest again.
    """

    def __init__(self, layers: Sequence[Layer], gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.gradient_checkpointing = bool(gradient_checkpointing)
        if not layers:
            raise ValueError("a transformer needs at least one layer")
        first = layers[0]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(first.dim, first.mlp_norm.eps) if first.norm_first else nn.Identity()
        branches = len(layers) * (2 if first.cross is None else 3)
        for layer in layers:
            layer.scale_branches(1.0 / math.sqrt(branches))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        past: Sequence[KeyValue] | None = None,
        memory: Tensor | Sequence[KeyValue] | None = None,
        **reading: Any,
    ) -> tuple[list[Tensor], list[KeyValue]]:
        """The tokens `(B, T, dim)` after each layer, the last ones normalized, and each layer's keys and values.

        Args:
            x: `(B, T, dim)`.
            mask: see `attend`.
            past: keys and values from before, of each layer.
            memory: what all layers read, or its keys and values, of each layer.
            reading: the other arguments of each layer: causal, position, memory_mask.
        """
        outputs, present = [], []
        for number, layer in enumerate(self.layers):
            read = memory if memory is None or isinstance(memory, Tensor) else memory[number]
            run = partial(_recomputed, layer) if self.gradient_checkpointing and torch.is_grad_enabled() else layer
            x, key_value = run(x, mask, past=None if past is None else past[number], memory=read, **reading)
            outputs.append(x)
            present.append(key_value)
        outputs[-1] = self.norm(x)
        return outputs, present


def _recomputed(layer: nn.Module, *arguments: Any, **reading: Any) -> tuple[Tensor, KeyValue]:
    """A layer that is computed again in the backward pass, with the same dropout masks."""
    draws = layer.training  # dropout, if there is any
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=draws, **reading)  # type: ignore[no-any-return]


def with_gradient_checkpointing(network: nn.Module) -> nn.Module:
    """The network, whose transformers keep the inputs of layers alone while learning, and compute the rest again.

    The gradients are the same, and take about a third more work (Chen et al. 2016, arXiv:1604.06174).

    Raises:
        ValueError: no transformer that can do so is in it.
    """
    stacks = [module for module in network.modules() if isinstance(module, Stack)]
    if not stacks:
        raise ValueError(
            f"gradient_checkpointing is for transformers, not for a {type(network).__name__}: leave it out, or choose "
            "backbone='transformer'"
        )
    for stack in stacks:
        stack.gradient_checkpointing = True
    return network
