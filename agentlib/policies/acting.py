"""From observations in numpy to actions in numpy."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium import spaces
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.backbones.cnn import BlockConv2d, NatureCNN
from agentlib.backbones.mlp import MLP
from agentlib.envs.spaces import flatten, is_masked, observed_mask, unflatten
from agentlib.policies.base import noted
from agentlib.policies.continuous import GaussianPolicy
from agentlib.policies.discrete import CategoricalPolicy
from agentlib.policies.q_heads import NoisyLinear, QHead, noisy_weights
from agentlib.policies.q_policy import QPolicy
from agentlib.training.trees import mapped


def to_tensors(space: spaces.Space[Any], observation: Any, device: torch.device | str = "cpu") -> Any:
    """A batch of observations (numpy) as a tree of tensors on a device; float64 becomes float32."""
    leaves = []
    for leaf in flatten(space, observation):
        array = np.asarray(leaf)
        tensor = torch.from_numpy(np.array(array) if not array.flags.writeable else array)
        leaves.append(tensor.to(device, torch.float32 if tensor.dtype == torch.float64 else tensor.dtype))
    return unflatten(space, leaves)


def in_eval_mode(policy: nn.Module) -> Any:
    """A context in which the policy acts: no gradients, eval mode; its mode is put back afterwards.

    Of several threads that act at once, the first switches the mode and the last puts it back.
    """
    return _EvalMode(policy)


_ACTING: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many act at this moment with a policy that is otherwise in training mode."""
_LOCK = threading.Lock()


def _forget_other_threads() -> None:
    """After a fork: the threads of the parent, which may just have been acting, are not here."""
    global _LOCK
    _LOCK = threading.Lock()
    for policy in list(_ACTING):
        policy.train()
    _ACTING.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_other_threads)


class _EvalMode:
    def __init__(self, policy: nn.Module) -> None:
        self.policy, self.no_grad, self.switched = policy, torch.no_grad(), False

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        with _LOCK:
            self.switched = self.policy.training or self.policy in _ACTING
            if self.switched:
                _ACTING[self.policy] = _ACTING.get(self.policy, 0) + 1
                self.policy.eval()

    def __exit__(self, *error: Any) -> None:
        if self.switched:
            with _LOCK:
                _ACTING[self.policy] -= 1
                if _ACTING[self.policy] == 0:
                    del _ACTING[self.policy]
                    self.policy.train()
        self.no_grad.__exit__(*error)


def decide(
    policy: nn.Module,
    space: spaces.Space[Any],
    observation: Any,
    state: Any = None,
    episode_start: NDArray[np.bool_] | None = None,
    seed: int | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], Any]:
    """Actions `(B, ...)` of a policy for a batch of observations (numpy), and its next state, once they are taken.

    Args:
        policy: as `agentlib.policies` has them, with memory or without.
        space: of one observation.
        observation: batched.
        state: of a policy with memory; the initial state by default.
        episode_start: `(B,)`, true where the state is to be reset first.
        seed: draw actions by a generator with this seed, in place of the best ones.
        mask: `(B, A)`, true where an action is legal, for policies of action values; the mask in a Dict observation is
            found without it.
    """
    if mask is None and getattr(policy, "takes_masks", False) and is_masked(space):
        mask = observed_mask(observation, sum(policy.branches))  # type: ignore[arg-type]
    device = next(policy.parameters()).device
    tensors = to_tensors(space, observation, device)
    with in_eval_mode(policy):
        if getattr(policy, "is_sequence", False):
            tensors = mapped(tensors, lambda leaf: leaf[:, None])  # (B, 1, ...)
            starts = None if episode_start is None else torch.as_tensor(episode_start, device=device)[:, None]
            output, state = policy(tensors, state, starts)
            output = output[:, 0]  # (B, n)
        else:
            output, state = policy(tensors, state)
        actions: Tensor
        if seed is None:
            masks = () if mask is None else (torch.as_tensor(mask, device=device),)
            actions = policy.choose(output, *masks)  # type: ignore[operator]
        else:
            actions = policy.sample(output, torch.Generator(device).manual_seed(seed))  # type: ignore[operator]
        state = noted(policy, state, actions)
    return actions.cpu().numpy(), state


class GreedyActor:
    """The best actions for batches of observations, always by the policy's present weights; without memory.

    A plain MLP on the CPU is computed by numpy on views of its weights, for up to `NUMPY_ROWS` observations at once,
    and the Nature CNN for one. A forward pass of modules costs several times its arithmetic there.

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment.
        noise_seed: act by weights with fresh noise at each call, where the policy has noisy layers; without it, by
            their means.
    """

    always_asked = False

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], noise_seed: int | None = None) -> None:
        self.policy, self.space = policy, observation_space
        self.shortcut = numpy_shortcut(policy)
        noisy = noise_seed is not None and any(isinstance(layer, NoisyLinear) for layer in policy.modules())
        self.generator = np.random.default_rng([noise_seed or 0, 2]) if noisy else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shortcut": None}  # the copy of a view would see no changes of the weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.shortcut = numpy_shortcut(self.policy)

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for a batch of observations.

        Where a `mask (B, A)` of legal actions is given, only these are chosen.
        """
        shortcut = self._shortcut(observation)
        if shortcut is not None:
            return shortcut(observation, mask)
        with nullcontext() if self.generator is None else noisy_weights(self.policy, self.generator):
            return decide(self.policy, self.space, observation, mask=mask)[0]

    def logits(self, observation: Any) -> NDArray[np.float32] | None:
        """Logits or values `(B, n)` of one choice by the shortcut; None where there is none."""
        shortcut = self._shortcut(observation)
        return None if shortcut is None or not shortcut.gives_logits else shortcut.output(observation)

    def _shortcut(self, observation: Any) -> NumpyShortcut | None:
        shortcut = self.shortcut
        if shortcut is None or not shortcut.takes(observation):
            return None
        if shortcut.is_current():  # nearly always
            return shortcut
        self.shortcut = numpy_shortcut(self.policy)
        return self.shortcut

    def state(self) -> dict[str, Any]:
        """The state of the noise's generator, for a checkpoint."""
        return {} if self.generator is None else dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        if self.generator is not None:
            self.generator.bit_generator.state = state


NUMPY_ROWS = 1_024
"""Beyond so many observations torch, which may use several threads, is as quick."""


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
    """

    def __init__(
        self,
        convolutions: list[nn.Conv2d],
        shape: tuple[int, ...],
        linears: list[nn.Linear],
        activation: Callable[[NDArray[Any]], NDArray[Any]],
        policy: nn.Module,
        n_atoms: int = 1,
    ) -> None:
        self.n_atoms = n_atoms
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
        parameters = [parameter for module in (*convolutions, *linears) for parameter in module.parameters()]
        self.addresses = [(parameter, parameter.data_ptr()) for parameter in parameters]
        self.policy = policy if isinstance(policy, GaussianPolicy) else None
        self.gives_logits = self.policy is None and type(policy.head) is nn.Linear  # others only rank the actions
        if self.policy is not None:
            bounds = self.policy.bounds
            sides = bounds.low, bounds.high, bounds.middle, bounds.half_range, bounds.bounded
            self.low, self.high, self.middle, self.half_range, self.bounded = (side.numpy() for side in sides)

    def takes(self, observation: Any) -> bool:
        """Whether it is a batch for which this is quicker than torch."""
        if self.convolutions:
            return type(observation) is np.ndarray and observation.shape == (1, *self.shape)
        return len(observation) <= NUMPY_ROWS

    def is_current(self) -> bool:
        """Whether the views look at the weights: `to` moves these, and so does sending a policy to another process."""
        for parameter, address in self.addresses:  # noqa: SIM110 - a third quicker, and done for each action
            if parameter.data_ptr() != address:
                return False
        return True

    def output(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """The last layer's numbers `(B, n)`, or their means, for observations `(B, ...)`."""
        x: NDArray[Any]
        if self.convolutions:
            x = np.ascontiguousarray(observation[0])
            for convolution in self.convolutions:
                x = convolution(x)
            x = x[None]
        else:
            x = np.asarray(observation, np.float32)
        x = x.ravel() if len(x) == 1 else x.reshape(len(x), -1)  # vectors are quicker than matrices of one row
        for weight, bias in self.layers[:-1]:
            x = _product(x, weight)
            x += bias
            x = self.activation(x)
        weight, bias = self.layers[-1]
        x = _product(x, weight)
        x += bias
        x = x if x.ndim == 2 else x[None]
        return x if self.n_atoms == 1 else x.reshape(len(x), -1, self.n_atoms).mean(2)

    def __call__(self, observation: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for observations `(B, ...)`, among the legal ones if a mask `(B, A)` is given."""
        x = self.output(observation)
        if self.policy is None:
            best: NDArray[Any] = (x if mask is None else np.where(mask, x, -np.inf)).argmax(1)
            return best
        if self.policy.squashed:
            x = np.where(self.bounded, self.middle + self.half_range * np.tanh(x), x)
        real: NDArray[Any] = np.clip(x, self.low, self.high).reshape(-1, *self.policy.bounds.shape)
        return real


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

    Those are the plain MLP, and the Nature CNN of images `(C, H, W)`.
    """
    if type(policy) not in (QPolicy, CategoricalPolicy, GaussianPolicy):
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
    if type(backbone) is NatureCNN and not backbone.layout.channels_last:
        convolutions = [module for module in backbone.convolutions if isinstance(module, nn.Conv2d)]
        layers, shape = backbone.linear, backbone.layout.shape
    elif type(backbone) is MLP and backbone.is_plain and backbone.activation in NUMPY_ACTIVATIONS:
        layers, activation = backbone.layers, backbone.activation
    else:
        return None
    if len(head) > 1 and activation != "relu":  # the head's own
        return None
    linears = [module for module in (*layers, *head) if isinstance(module, nn.Linear)]
    weights = [module.weight for module in (*convolutions, *linears)]
    if any(w.device.type != "cpu" or w.dtype != torch.float32 or not w.is_contiguous() for w in weights):
        return None
    return NumpyShortcut(convolutions, shape, linears, NUMPY_ACTIVATIONS[activation], policy, n_atoms)
