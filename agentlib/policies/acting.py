"""From observations in numpy to actions in numpy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.backbones.mlp import MLP
from agentlib.data.spaces import ACTION_MASK, flatten, observed_mask, unflatten
from agentlib.policies.q_heads import NoisyLinear, noisy_weights
from agentlib.policies.q_policy import QPolicy

Output = Callable[[list[NDArray[Any]]], NDArray[Any]]


def to_tensors(space: spaces.Space[Any], observation: Any, device: torch.device | str = "cpu") -> Any:
    """A batch of observations (numpy) as a tree of tensors on a device; float64 becomes float32."""
    leaves = []
    for leaf in flatten(space, observation):
        array = np.asarray(leaf)
        tensor = torch.from_numpy(np.array(array) if not array.flags.writeable else array)
        leaves.append(tensor.to(device, torch.float32 if tensor.dtype == torch.float64 else tensor.dtype))
    return unflatten(space, leaves)


def in_eval_mode(policy: nn.Module) -> Any:
    """A context in which the policy acts: no gradients, eval mode; its mode is put back afterwards."""
    return _EvalMode(policy)


class _EvalMode:
    def __init__(self, policy: nn.Module) -> None:
        self.policy, self.was_training = policy, policy.training
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.no_grad.__enter__()
        if self.was_training:
            self.policy.eval()

    def __exit__(self, *error: Any) -> None:
        if self.was_training:
            self.policy.train()
        self.no_grad.__exit__(*error)


class GreedyActor:
    """Greedy actions for batches of observations, always by the policy's present weights.

    A single observation and a plain MLP on the CPU go through numpy views of the weights: a forward pass of modules
    costs several times its arithmetic there.

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment; the masks of legal actions in Dict observations are found by themselves.
        noise_seed: act by weights with fresh noise at each call, where the policy has noisy layers; without it, by
            their means.
    """

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], noise_seed: int | None = None) -> None:
        self.policy, self.space = policy, observation_space
        self.layers = numpy_layers(policy)
        noisy = noise_seed is not None and any(isinstance(layer, NoisyLinear) for layer in policy.modules())
        self.generator = np.random.default_rng([noise_seed or 0, 2]) if noisy else None
        in_observation = isinstance(observation_space, spaces.Dict) and ACTION_MASK in observation_space.spaces
        self.mask_width = sum(policy.branches) if in_observation and isinstance(policy, QPolicy) else 0

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B,)`, of several components `(B, D)`, for a batch of observations.

        Where a `mask (B, A)` of legal actions is given, only these are chosen.
        """
        if self.layers is not None and len(observation) == 1:
            values = mlp_values(self.layers, observation[0])
            return np.array([(values if mask is None else np.where(mask[0], values, -np.inf)).argmax()])
        if mask is None and self.mask_width:
            mask = observed_mask(observation, self.mask_width)
        device = next(self.policy.parameters()).device
        noise = nullcontext() if self.generator is None else noisy_weights(self.policy, self.generator)
        with in_eval_mode(self.policy), noise:
            output, _ = self.policy(to_tensors(self.space, observation, device))
            masks = () if mask is None else (torch.as_tensor(mask, device=device),)
            actions: Tensor = self.policy.choose(output, *masks)  # type: ignore[operator]
        return actions.cpu().numpy()

    def state(self) -> dict[str, Any]:
        """The state of the noise's generator, for a checkpoint."""
        return {} if self.generator is None else dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        if self.generator is not None:
            self.generator.bit_generator.state = state


Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def numpy_layers(policy: nn.Module) -> Layers | None:
    """Views of the weights `(fan_in, fan_out)` and biases of a Q-policy on a plain ReLU MLP on the CPU; else None."""
    if type(policy) is not QPolicy or type(policy.backbone) is not MLP or policy.backbone.activation != "relu":
        return None
    if type(policy.head) is not nn.Linear:
        return None
    linears = [module for module in (*policy.backbone.layers, policy.head) if isinstance(module, nn.Linear)]
    if any(linear.weight.device.type != "cpu" or linear.weight.dtype != torch.float32 for linear in linears):
        return None
    return [(linear.weight.detach().numpy().T, linear.bias.detach().numpy()) for linear in linears]


def mlp_values(layers: Layers, observation: NDArray[Any]) -> NDArray[np.float32]:
    """The output `(n,)` of a ReLU MLP for one observation of any shape."""
    x = np.asarray(observation, np.float32).ravel()
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0.0)
    weight, bias = layers[-1]
    return x @ weight + bias
