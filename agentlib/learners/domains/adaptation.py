"""Adapting a trained network while it is used, by examples without labels.

    adapt_statistics   mean and variance of each normalization become those of the new examples
                       (Schneider et al. 2020, arXiv:2006.16971; of a policy's observations, those that a shifted
                       sensor gives)
    tent               gains and shifts of the normalizations follow -grad of the entropy of the predictions,
                       H = -sum_k p_k log p_k          (Tent; Wang et al. 2021, arXiv:2006.10726)

Both give a copy and leave the network as it was. Statistics are kept by BatchNorm (`norm="batch"` of a network) and by
the standardization of vectors (`normalize=True`); other normalizations have none. Entropy is least where all examples
get one class: few steps, examples of all classes, and a network that is mostly right are what Tent lives on.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from agentlib.backbones.combine import RunningNorm
from agentlib.backbones.layers import RMSNorm
from agentlib.metrics.scores import logits_from

Network = TypeVar("Network", bound=nn.Module)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, RMSNorm)


def entropy(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k of predictions, in nats, `(B,)`; logits are `(B, K)`."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@torch.no_grad()
def adapt_statistics(policy: Network, x: Tensor, share: float = 1.0) -> Network:
    """A copy whose statistics are those of new examples, by this share, and else the old ones.

    A layer sees what the layers before it make of the new statistics, so that all fit together where the share is 1.

    Args:
        policy: a classifier, or an agent's policy, without memory.
        x: examples, or observations, `(N, ...)`; the more, the better their statistics.
        share: between 0 and 1; 1 forgets the old statistics.

    Raises:
        ValueError: it keeps no statistics, or the share is out of its range.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is of the new statistics, more than 0 and at most 1, not {share}")
    adapted = copy.deepcopy(policy)
    layers = [module for module in adapted.modules() if isinstance(module, (*BATCH_NORMS, RunningNorm))]
    if not layers:
        raise ValueError('this network keeps no statistics: train it with norm="batch", or vectors with normalize=True')
    before = [_statistics(layer) for layer in layers]
    for layer in layers:
        if isinstance(layer, RunningNorm):
            layer.count.zero_()
    _observe(adapted, x)
    modes = [(module, module.training) for module in adapted.modules()]
    adapted.eval()
    kept = [(layer, layer.momentum) for layer in layers if isinstance(layer, BATCH_NORMS)]
    for norm, _ in kept:
        norm.train()
        norm.momentum = 1.0
    adapted(x)
    for norm, momentum in kept:
        norm.momentum = momentum
    for layer, old in zip(layers, before, strict=True):
        for now, then in zip(_tensors(layer), old, strict=True):
            now.copy_(share * now + (1.0 - share) * then)
    for module, mode in modes:
        module.training = mode
    return adapted


def _tensors(layer: Any) -> tuple[Tensor, Tensor]:
    names = ("mean", "variance") if isinstance(layer, RunningNorm) else ("running_mean", "running_var")
    return getattr(layer, names[0]), getattr(layer, names[1])


def _statistics(layer: Any) -> list[Tensor]:
    return [tensor.clone() for tensor in _tensors(layer)]


def _observe(policy: Any, x: Tensor) -> None:
    if hasattr(policy, "observe"):
        policy.observe(x)


def tent(
    policy: Network, x: Tensor, *, learning_rate: float = 1e-3, epochs: int = 1, batch_size: int = 64, seed: int = 0
) -> Network:
    """A copy whose normalizations have learned to be sure on new examples; BatchNorm by the statistics of each batch.

    Args:
        policy: a classifier, or a policy with discrete actions, without memory.
        x: examples `(N, ...)`.
        learning_rate: of Adam.
        epochs: passes over the examples.
        batch_size: examples of each step.
        seed: of their order.

    Raises:
        ValueError: the network has no normalization with gains and shifts.
    """
    adapted = copy.deepcopy(policy).requires_grad_(False)
    norms = [module for module in adapted.modules() if isinstance(module, NORMS)]
    gains = [parameter for norm in norms for parameter in norm.parameters()]
    if not gains:
        raise ValueError("this network has no normalization to adapt: train it with norm=, such as norm='batch'")
    kept = [(norm, norm.momentum) for norm in norms if isinstance(norm, BATCH_NORMS)]
    modes = [(module, module.training) for module in adapted.modules()]
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for parameter in gains:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(gains, lr=learning_rate)
        adapted.eval()
        for norm, _ in kept:
            norm.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                if len(rows) > 1:
                    optimizer.zero_grad()
                    entropy(logits_from(adapted, adapted(x[rows.to(x.device)]))).mean().backward()
                    optimizer.step()
    for module, mode in modes:
        module.training = mode
    for parameter, own in zip(adapted.parameters(), policy.parameters(), strict=True):
        parameter.grad = None
        parameter.requires_grad_(own.requires_grad)
    return adapt_statistics(adapted, x) if kept else adapted
