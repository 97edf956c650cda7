"""From observations in numpy to actions in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.backbones.mlp import MLP
from agentlib.data.spaces import flatten, unflatten
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
    """

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any]) -> None:
        self.policy, self.space = policy, observation_space
        self.layers = numpy_layers(policy)

    def __call__(self, observation: Any) -> NDArray[Any]:
        """Actions `(B,)` for a batch of observations."""
        if self.layers is not None and len(observation) == 1:
            return np.array([mlp_values(self.layers, observation[0]).argmax()])
        device = next(self.policy.parameters()).device
        with in_eval_mode(self.policy):
            output, _ = self.policy(to_tensors(self.space, observation, device))
            actions: Tensor = self.policy.choose(output)  # type: ignore[operator]
        return actions.cpu().numpy()


Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def numpy_layers(policy: nn.Module) -> Layers | None:
    """Views of the weights `(fan_in, fan_out)` and biases of a Q-policy on a plain ReLU MLP on the CPU; else None."""
    if type(policy) is not QPolicy or type(policy.backbone) is not MLP or not policy.backbone.is_plain:
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
