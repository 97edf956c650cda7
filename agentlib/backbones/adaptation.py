"""LoRA: a trained network learns something else by changes of low rank (Hu et al. 2022, arXiv:2106.09685).

    W = W_0 + alpha / r B A            B (out, r), A (r, in): r (out + in) numbers are learned in place of out in

W_0 stays as it is. B begins at 0, so that the network begins as it was, and A as torch begins linear layers. Weights of
linear layers, convolutions and recurrent cells are changed, those of convolutions as matrices (out, in h w). We differ
from the paper in that all of them are, not only some of attention, whose query, key and value are one matrix here.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from agentlib.core.numbers import whole

Network = TypeVar("Network", bound=nn.Module)


class LowRank(nn.Module):
    """A weight and a change of low rank: W_0 + alpha / r B A.

    Args:
        weight: W_0, `(out, ...)`.
        rank: r.
        alpha: the size of the change.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        self.scale = alpha / rank
        self.out = nn.Parameter(weight.new_zeros(rows, rank))  # B
        self.into = nn.Parameter(weight.new_empty(rank, columns))  # A
        nn.init.kaiming_uniform_(self.into, a=math.sqrt(5.0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.out @ self.into).view_as(weight)


def lora(network: Network, rank: int, alpha: float | None = None) -> Network:
    """The network, in which all is frozen but a change of low rank of each weight; it is changed in place.

    Weights that are computed from others already, as by spectral normalization, and embeddings have no change. Files
    hold the network as it is without LoRA, its changes merged (see `merged`).

    Args:
        network: any network.
        rank: r of each change, cut to the size of the weight; 0 freezes the network, and no more.
        alpha: the size of the changes; by default the rank, so that they are B A.

    Returns:
        The same network; a copy of one that LoRA has changed before, with these changes merged.

    Raises:
        ValueError: the rank is no whole number from 0, or the network has no weight to change.
    """
    whole("rank", rank, 0)
    network = merged(network).requires_grad_(False)
    weights = [
        (module, name, weight)
        for module in network.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name.startswith("weight") and weight.dim() > 1 and not isinstance(module, nn.Embedding)
    ]
    if not weights:
        raise ValueError(f"a {type(network).__name__} has no weight of a linear layer, convolution or recurrent cell")
    for module, name, weight in weights if rank else ():
        size = min(rank, weight.shape[0], weight[0].numel())
        change = LowRank(weight.detach(), size, size if alpha is None else alpha)
        parametrize.register_parametrization(module, name, change)
    return network


def merged(network: Network) -> Network:
    """A copy of a network in which the changes of `lora` are part of the weights; itself where there are none."""
    if not any(isinstance(module, LowRank) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        changes: Any = getattr(module, "parametrizations", {})
        if changes and all(isinstance(change[0], LowRank) for change in changes.values()):
            weights = {name: getattr(module, name).detach() for name in changes}
            module.__class__ = type(module).__bases__[0]  # torch's own way would change the class of the original, too
            del module.parametrizations
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight))
    return network.requires_grad_(True)
