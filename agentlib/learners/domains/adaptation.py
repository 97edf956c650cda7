"""Adapting a trained network while it is used, by examples without labels.

    adapt_statistics   mean and variance of each normalization become those of the new examples
                       (Schneider et al. 2020, arXiv:2006.16971; of a policy's observations, those that a shifted
                       sensor gives; of `WithContext`, ARM's contexts, Zhang et al. 2021, arXiv:2007.02931)
    tent               gains and shifts of the normalizations follow -grad of the entropy of the predictions,
                       H = -sum_k p_k log p_k          (Tent; Wang et al. 2021, arXiv:2006.10726)
    ttt                the backbone follows -grad of the loss of telling by which quarter each example was turned
                       (test-time training; Sun et al. 2020, arXiv:1909.13231; the last layers of both tasks stay)

Each gives a copy and leaves the network as it was. Statistics are kept by BatchNorm (`norm="batch"` of a network), by
the standardization of vectors (`normalize=True`) and by contexts; other normalizations have none. Entropy is least
where all examples get one class: few steps, examples of all classes, and a network that is mostly right are what Tent
lives on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.combine import RunningNorm, WithContext
from agentlib.backbones.layers import RMSNorm
from agentlib.learners.self_supervised.rotation import quarter_turns
from agentlib.metrics.scores import logits_from
from agentlib.policies import RotationPolicy

Network = TypeVar("Network", bound=nn.Module)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
FOLLOWING = (*BATCH_NORMS, WithContext)
"""Layers whose statistics follow the batches that they see in training mode."""
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
    layers = [module for module in adapted.modules() if isinstance(module, (*FOLLOWING, RunningNorm))]
    if not layers:
        raise ValueError('this network keeps no statistics: train it with norm="batch", or vectors with normalize=True')
    before = [_statistics(layer) for layer in layers]
    for layer in layers:
        if isinstance(layer, RunningNorm):
            layer.count.zero_()
    _observe(adapted, x)
    modes = [(module, module.training) for module in adapted.modules()]
    adapted.eval()
    kept = [(layer, layer.momentum) for layer in layers if isinstance(layer, FOLLOWING)]
    for norm, _ in kept:
        norm.training = True  # not what it consists of
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


def _tensors(layer: Any) -> tuple[Tensor, ...]:
    if isinstance(layer, WithContext):
        return (layer.mean,)
    return (layer.mean, layer.variance) if isinstance(layer, RunningNorm) else (layer.running_mean, layer.running_var)


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
    adapted = copy.deepcopy(policy)
    norms = [module for module in adapted.modules() if isinstance(module, NORMS)]
    gains = [parameter for norm in norms for parameter in norm.parameters()]
    if not gains:
        raise ValueError("this network has no normalization to adapt: train it with norm=, such as norm='batch'")
    kept = [norm for norm in norms if isinstance(norm, BATCH_NORMS)]

    def loss(part: Tensor) -> Tensor:
        return entropy(logits_from(adapted, adapted(part))).mean()

    _train(adapted, gains, kept, loss, x, learning_rate, epochs, batch_size, seed)
    return adapt_statistics(adapted, x) if kept else adapted


def ttt(
    policy: RotationPolicy,
    x: Tensor,
    *,
    learning_rate: float = 1e-3,
    epochs: int = 1,
    batch_size: int = 64,
    seed: int = 0,
) -> RotationPolicy:
    """A copy whose backbone has learned to tell by which quarter new examples are turned.

    The arguments are those of `tent`, of a classifier that learned the same beside its classes: `domains` with
    `method="ttt"`; x are square images `(N, C, S, S)`.
    """
    adapted = copy.deepcopy(policy)

    def loss(part: Tensor) -> Tensor:
        images, turn = quarter_turns(part)
        return functional.cross_entropy(adapted.turns(adapted.backbone(images)), turn)

    _train(adapted, list(adapted.backbone.parameters()), (), loss, x, learning_rate, epochs, batch_size, seed)
    return adapted


def adapted(policy: Any, x: Tensor) -> Any:
    """A policy as it is used on a domain: a copy that is adapted to x `(N, ...)`, where it learned to be."""
    if isinstance(policy, RotationPolicy):
        return ttt(policy, x)
    return adapt_statistics(policy, x) if isinstance(policy.backbone, WithContext) else policy


def _train(
    adapted: nn.Module,
    trained: Sequence[nn.Parameter],
    norms: Sequence[nn.Module],
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
) -> None:
    """Adam on the loss of batches, of these parameters alone; these norms in training mode. Modes are put back."""
    modes = [(module, module.training) for module in adapted.modules()]
    learns = [(parameter, parameter.requires_grad) for parameter in adapted.parameters()]
    generator = torch.Generator().manual_seed(seed)
    adapted.eval().requires_grad_(False)
    for norm in norms:
        norm.train()
    with torch.enable_grad():
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(trained, lr=learning_rate)
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                if len(rows) > 1:
                    optimizer.zero_grad()
                    loss(x[rows.to(x.device)]).backward()
                    optimizer.step()
    for module, mode in modes:
        module.training = mode
    for parameter, learned in learns:
        parameter.grad = None
        parameter.requires_grad_(learned)
