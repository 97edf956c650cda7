"""A backbone that fits an observation space: the one place that says what a name, a file or "auto" means."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor, nn

from agentlib.backbones import from_spec, load_backbone
from agentlib.backbones.named import MEMORIES, NAMED_BACKBONES, auto, mlp, with_memory
from agentlib.core.modes import in_eval_mode
from agentlib.core.names import close_matches
from agentlib.core.spaces import leaf_spaces, to_tensors

BackboneChoice = str | Path | Mapping[str, Any] | nn.Module
"""A name, a file, a spec, or a built network."""


def backbone_for(
    space: spaces.Space[Any],
    backbone: BackboneChoice = "auto",
    net_arch: Sequence[int] | None = None,
    normalize: bool = False,
    actions: spaces.Space[Any] | None = None,
    memory: bool = False,
    **layers: Any,
) -> nn.Module:
    """A network from observations or examples of `space` to features.

    "auto" means, for every learner: the Nature CNN for frames (uint8, at least 36x36); a small CNN for pictures
    (numbers between 0 and 1, `(C, H, W)`) unless `net_arch` asks for layers; an encoder for each part of a Dict or
    Tuple; layers of `net_arch`, by default 64 and 64, for all else; and an LSTM on top where memory is needed.

    Args:
        space: the observation space, of one environment, or the space of one example.
        backbone: a name of `NAMED_BACKBONES`; or a file that `save_backbone` wrote, a spec
            `{"name": ..., "arguments": {...}}`, or a built module, which are taken as they are.
        net_arch: widths of the hidden layers; by default 64 and 64, and none after a convolutional network.
        normalize: standardize floating-point parts of the observation by running statistics; pictures are left as
            they are.
        actions: a network with memory that is built by its name also reads the last action, of this space.
        memory: "auto" has memory.
        layers: how the layers of "auto" and "mlp" are, as `MLP` takes them: activation, norm, dropout.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown name, or a backbone that cannot take such observations.
    """
    if isinstance(backbone, nn.Module):
        if not hasattr(backbone, "feature_dim"):
            raise ValueError(f"a backbone needs an attribute `feature_dim`; {type(backbone).__name__} has none")
        return _fitting(backbone, space)
    if isinstance(backbone, Mapping):
        return _fitting(from_spec(dict(backbone)), space)
    if isinstance(backbone, Path) or (backbone not in NAMED_BACKBONES and _is_file(backbone)):
        return _fitting(load_backbone(backbone), space)
    if backbone not in NAMED_BACKBONES:
        raise ValueError(
            f"unknown backbone {backbone!r}{close_matches(backbone, NAMED_BACKBONES)}; or give a file that "
            "save_backbone wrote, a spec, or a module of your own"
        )
    leaf_spaces(space)  # refuses what has no fixed shape
    if backbone == "auto" and memory:
        backbone = "lstm"
    if backbone in MEMORIES:
        return with_memory(space, backbone, net_arch, normalize, actions)
    if backbone in ("auto", "mlp"):
        return (auto if backbone == "auto" else mlp)(space, net_arch, normalize, **layers)
    return NAMED_BACKBONES[backbone].build(space, net_arch, normalize)


def space_of(x: Tensor) -> spaces.Box:
    """The space of one of the examples `(N, ...)`: pictures between 0 and 1, other numbers without bounds."""
    shape = tuple(x.shape[1:])
    if x.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    is_picture = x.dim() == 4 and len(x) > 0 and float(x.min()) >= 0.0 and float(x.max()) <= 1.0
    low, high = (0.0, 1.0) if is_picture else (-np.inf, np.inf)
    return spaces.Box(low, high, shape, np.float32)


def _is_file(backbone: str) -> bool:
    return backbone.endswith(".safetensors") or Path(backbone).is_file()


def _fitting(network: nn.Module, space: spaces.Space[Any]) -> nn.Module:
    """The network, after it has shown on two observations that it takes them; networks with memory are trusted."""
    leaf_spaces(space)  # refuses what has no fixed shape
    if getattr(network, "is_sequence", False):
        return network
    world = copy.deepcopy(space)  # a generator of our own
    world.seed(0)
    out: Any = create_empty_array(world, n=2)
    observations = concatenate(world, [world.sample(), world.sample()], out)
    device = next((tensor.device for tensor in [*network.parameters(), *network.buffers()]), "cpu")
    try:
        with in_eval_mode(network):
            features = network(to_tensors(space, observations, device))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"this backbone does not take observations of {space}: {error}") from error
    expected = (2, getattr(network, "feature_dim", None))
    if not isinstance(features, Tensor) or tuple(features.shape) != expected:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"a backbone gives features (B, feature_dim), for two observations {expected}, not {found}")
    return network
