"""Policies on plain networks, computed by numpy: a forward pass of modules costs several times its arithmetic there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import nn

from agentlib.backbones.cnn import BlockConv2d, NatureCNN
from agentlib.backbones.combine import Table
from agentlib.backbones.mlp import MLP
from agentlib.policies.continuous import LOG_STD_RANGE, DeterministicPolicy, GaussianPolicy
from agentlib.policies.discrete import CategoricalPolicy
from agentlib.policies.q_heads import QHead
from agentlib.policies.q_policy import QPolicy

NUMPY_ROWS = 1_024
"""Above this number of observations torch, which may use several threads, is as quick."""


class NumpyShortcut:
    """The best actions of a policy with one head on a plain network, computed by numpy on views of its weights.

    Args:
        convolutions: those before the linear layers, each with a ReLU, without padding.
        shape: of one image `(C, H, W)`, where there are convolutions.
        linears: the linear layers, and the head's. Of a dueling head the advantages' are enough: the state's value is
            the same for all actions.
        activation: between them.
        policy: whose they are.
        n_atoms: numbers per action in the last layer, whose mean tells which is best.
        encode: from observations to the numbers that the first layer takes, in place of flattening them.
    """

    def __init__(
        self,
        convolutions: list[nn.Conv2d],
        shape: tuple[int, ...],
        linears: list[nn.Linear],
        activation: Callable[[NDArray[Any]], NDArray[Any]],
        policy: nn.Module,
        n_atoms: int = 1,
        encode: Callable[[Any], NDArray[np.float32]] | None = None,
    ) -> None:
        self.n_atoms, self.encode = n_atoms, encode
        self.convolutions, self.shape = list[_BlockConvolution | _Convolution](), shape
        if convolutions:
            self.convolutions.append(_BlockConvolution.of(convolutions[0], shape))
        for module in convolutions[1:]:
            before = self.convolutions[-1]
            self.convolutions.append(_Convolution.of(module, before.shape, isinstance(before, _BlockConvolution)))
        self.layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = [
            (linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in linears
        ]
        self.activation = activation
        self.is_small = all(weight.size <= SMALL_PRODUCT for weight, _ in self.layers)
        self.policy = policy if isinstance(policy, GaussianPolicy | DeterministicPolicy) else None
        log_std: Any = getattr(policy, "log_std_head", None)
        self.log_std: Any = (
            None if log_std is None else (log_std.weight.detach().numpy().T, log_std.bias.detach().numpy())
        )
        held = [module._parameters for module in (*convolutions, *linears, *([] if log_std is None else [log_std]))]
        self.addresses = [
            (one, name, weight.data_ptr()) for one in held for name, weight in one.items() if weight is not None
        ]
        self.places = [
            (one._modules, name, module) for one in policy.modules() for name, module in one._modules.items()
        ]
        self.hooks = [
            hooks for module in policy.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]
        self.gives_logits = self.policy is None and type(policy.head) is nn.Linear  # others only rank the actions
        if self.policy is not None:
            bounds = self.policy.bounds
            sides = bounds.low, bounds.high, bounds.middle, bounds.half_range, bounds.bounded
            self.low, self.high, self.middle, self.half_range, self.bounded = (side.numpy() for side in sides)

    def is_current(self) -> bool:
        """Whether the views are of the present weights: `to` moves these, and they and layers may be replaced."""
        for held, name, module in self.places:
            if held.get(name) is not module:
                return False
        for held, name, address in self.addresses:
            weight = held.get(name)
            if weight is None or weight.data_ptr() != address:
                return False
        return not any(self.hooks)

    def takes(self, observation: Any, size: int | None = None) -> bool:
        """Whether it is a batch for which this is quicker than torch, or a part of one of that size."""
        if self.convolutions:
            is_image = type(observation) is np.ndarray and observation.shape == (1, *self.shape)
            return is_image and (size is None or size == 1)
        if self.encode is not None and type(observation) is not np.ndarray:
            return isinstance(observation, tuple) and all(type(part) is np.ndarray for part in observation)
        return 0 < (len(observation) if size is None else size) <= NUMPY_ROWS

    def output(self, observation: NDArray[Any], with_log_std: bool = False) -> NDArray[np.float32]:
        """The last layer's numbers `(B, n)`, or their means, for observations `(B, ...)`.

        Log standard deviations that depend on the observation come behind them, if they are asked for.
        """
        x: NDArray[Any]
        if self.convolutions:
            x = np.ascontiguousarray(observation[0])
            for convolution in self.convolutions:
                x = convolution(x)
            x = x[None]
        else:
            x = np.asarray(observation, np.float32) if self.encode is None else self.encode(observation)
        is_one = len(x) == 1
        x = x.ravel() if is_one else x.reshape(len(x), -1)  # vectors are quicker than matrices of one row
        is_small, last = is_one and self.is_small, self.layers[-1]
        for layer in self.layers:
            weight, bias = layer
            features, x = x, x.dot(weight) if is_small else _product(x, weight)
            x += bias
            if layer is not last:
                self.activation(x)
        if with_log_std:
            x = np.concatenate([x, np.clip(features.dot(self.log_std[0]) + self.log_std[1], *LOG_STD_RANGE)], -1)
        x = x[None] if is_one else x
        return x if self.n_atoms == 1 else x.reshape(len(x), -1, self.n_atoms).mean(2)

    def __call__(self, observation: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for observations `(B, ...)`, among the legal ones if a mask `(B, A)` is given."""
        x = self.output(observation)
        if self.policy is None:
            best: NDArray[Any] = (x if mask is None else np.where(mask, x, -np.inf)).argmax(1)
            return best
        if self.policy.squashed:
            limit = getattr(self.policy, "limit", None)
            x = self.squash(x if limit is None else np.clip(x, -limit, limit))
        real: NDArray[Any] = np.clip(x, self.low, self.high).reshape(-1, *self.policy.bounds.shape)
        return real

    def squash(self, x: NDArray[Any]) -> NDArray[Any]:
        """As `Bounds.squash`."""
        return np.where(self.bounded, self.middle + self.half_range * np.tanh(x), x)


def _entries(table: Table) -> Callable[[Any], NDArray[np.float32]]:
    """`Table.forward` of arrays, or of tuples of arrays."""
    first, stride, entries = table.first.numpy(), table.stride.numpy(), np.arange(table.feature_dim)

    def encode(observation: Any) -> NDArray[np.float32]:
        parts = observation if isinstance(observation, tuple) else (observation,)
        index = (np.concatenate([part.reshape(len(part), -1) for part in parts], 1) - first) @ stride  # (B,)
        row: NDArray[np.float32] = (index[:, None] == entries).astype(np.float32)  # (B, feature_dim)
        return row

    return encode


class _BlockConvolution(NamedTuple):
    """The first convolution and its ReLU, as `BlockConv2d` has it: a kernel covers n by n blocks of s by s pixels.

    Each block is multiplied with all n n parts of the kernels in one product, and the parts are added where they meet.
    Windows would hold each number n n times.
    """

    weight: NDArray[np.void]  # (n, n, out, C, s), each item a row of s numbers
    bias: NDArray[np.float32]  # (out,)
    shape: tuple[int, ...]  # (out, h, w)

    @classmethod
    def of(cls, module: nn.Conv2d, shape: tuple[int, ...]) -> _BlockConvolution:
        """For images of one shape `(C, H, W)`."""
        assert isinstance(module, BlockConv2d)
        assert module.bias is not None
        side, out = module.side, module.out_channels
        count = module.kernel_size[0] // side
        rows, columns = (length // side - count + 1 for length in shape[1:])
        weight = _in_rows(module.weight.detach().numpy(), side).reshape(out, shape[0], count, side, count)
        return cls(weight.transpose(2, 4, 0, 1, 3), module.bias.detach().numpy(), (out, rows, columns))

    def __call__(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """`(C, H, W)` to `(h, w, out)`; bytes are divided by 255, once they have become sums."""
        (count, _, out, channels, side), (_, rows, columns) = self.weight.shape, self.shape
        down, across = rows + count - 1, columns + count - 1
        blocks = _in_rows(image[:, : down * side, : across * side], side).reshape(channels, down, side, across)
        blocks = np.ascontiguousarray(blocks.transpose(1, 3, 0, 2)).view(image.dtype)  # (down, across, C, s s)
        weight = np.ascontiguousarray(self.weight).view(np.float32).reshape(count * count * out, -1)
        products = _product(blocks.reshape(down * across, -1).astype(np.float32, copy=False), weight.T)
        parts = products.reshape(down, across, count, count, out)
        x = np.zeros((rows, columns, out), np.float32)
        for i in range(count):
            for j in range(count):
                x += parts[i : i + rows, j : j + columns, i, j]
        if image.dtype.kind != "f":
            x /= BYTE
        x += self.bias
        return _relu(x)


def _in_rows(numbers: NDArray[Any], side: int) -> NDArray[np.void]:
    """`(..., N)` as `(..., N/s)` items of s numbers, which numpy moves at once."""
    return numbers.view(np.dtype((np.void, side * numbers.itemsize)))


class _Convolution(NamedTuple):
    """Another convolution and its ReLU."""

    weight: NDArray[np.float32]  # (out, C k k)
    bias: NDArray[np.float32]  # (out, 1)
    windows: NDArray[np.intp]  # (C k k, h w), where in the flat image the numbers under the kernel are
    shape: tuple[int, ...]  # (out, h, w)

    @classmethod
    def of(cls, module: nn.Conv2d, shape: tuple[int, ...], channels_last: bool) -> _Convolution:
        """Of a module without padding, for images of one shape `(C, H, W)`, which may lie in memory as `(H, W, C)`."""
        assert module.bias is not None
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        sides, stride = module.kernel_size, module.stride[0]
        places = np.arange(math.prod(shape))
        places = places.reshape(*shape[1:], -1).transpose(2, 0, 1) if channels_last else places.reshape(shape)
        windows = sliding_window_view(places, sides, (1, 2))[:, ::stride, ::stride]  # (C, h, w, k, k)
        rows, columns = windows.shape[1:3]
        windows = windows.transpose(0, 3, 4, 1, 2).reshape(-1, rows * columns)
        return cls(weight.reshape(len(weight), -1), bias[:, None], windows, (len(weight), rows, columns))

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(C, H, W)`, or `(H, W, C)`, to `(out, h, w)`."""
        x = _product(self.weight, image.ravel().take(self.windows))
        x += self.bias
        return _relu(x).reshape(self.shape)


SMALL_PRODUCT = 9_216
"""Multiplications from which on numpy's OpenBLAS takes several threads for a vector and a matrix."""


def _product(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The matrix product.

    numpy takes threads of its own for large ones. Where torch has several, too, both wait for theirs in loops, on the
    same processors, and everything takes several times as long; then torch does it.
    """
    if a.size * b.shape[1] > SMALL_PRODUCT and torch.get_num_threads() > 1:
        return torch.from_numpy(a).matmul(torch.from_numpy(b)).numpy()
    product: NDArray[Any] = a.dot(b)  # quicker than @
    return product


def _relu(x: NDArray[Any]) -> NDArray[Any]:
    return np.maximum(x, ZERO, out=x)  # type: ignore[no-any-return]


def _tanh(x: NDArray[Any]) -> NDArray[Any]:
    return np.tanh(x, out=x)  # type: ignore[no-any-return]


ZERO, BYTE = np.zeros((), np.float32), np.float32(255)
"""Of the same type as activations: a Python number would be converted at every call."""
NUMPY_ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {"relu": _relu, "tanh": _tanh}
"""In place."""


def numpy_shortcut(policy: nn.Module) -> NumpyShortcut | None:
    """The shortcut for action values, one choice or real numbers on a network that it knows, on the CPU; else None.

    Those are the plain MLP, a table, and the Nature CNN of images `(C, H, W)`, of torch's own layers without hooks.
    """
    if type(policy) not in (QPolicy, CategoricalPolicy, GaussianPolicy, DeterministicPolicy):
        return None
    head: list[Any] = [policy.head]
    n_atoms = 1
    if isinstance(policy, QPolicy) and isinstance(policy.head, QHead):
        if policy.is_branched or policy.noisy or policy.distributional == "c51":
            return None
        head, n_atoms = list(policy.head.advantages[0].children()), policy.head.n_atoms or 1
    backbone, activation = policy.backbone, "relu"
    convolutions: list[nn.Conv2d] = []
    shape: tuple[int, ...] = ()
    layers: Any = ()
    if type(backbone) is NatureCNN and not backbone.layout.channels_last:
        convolutions = [module for module in backbone.convolutions if isinstance(module, nn.Conv2d)]
        layers, shape = backbone.linear, backbone.layout.shape
    elif type(backbone) is MLP and backbone.norm == "none" and not backbone.residual:
        layers, activation = backbone.layers, backbone.activation
    elif type(backbone) is not Table or backbone.first.device.type != "cpu":
        return None
    if activation not in NUMPY_ACTIVATIONS or (len(head) > 1 and activation != "relu"):  # the head's own
        return None
    linears = [module for module in (*layers, *head) if isinstance(module, nn.Linear)]
    log_std = getattr(policy, "log_std_head", None)
    for module in (*convolutions, *linears, *([] if log_std is None else [log_std])):
        if type(module) not in (nn.Linear, nn.Conv2d, BlockConv2d) or module.bias is None:
            return None
        weight = module.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or not weight.is_contiguous():
            return None
    encode = _entries(backbone) if type(backbone) is Table else None
    found = NumpyShortcut(convolutions, shape, linears, NUMPY_ACTIVATIONS[activation], policy, n_atoms, encode)
    return None if any(found.hooks) else found
