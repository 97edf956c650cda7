"""A backbone that fits an observation space: the one place that says what a name, a file or "auto" means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from agentlib.backbones import (
    GRU,
    LSTM,
    MLP,
    RNN,
    Backbone,
    Chain,
    NatureCNN,
    Nested,
    OneHot,
    RunningNorm,
    SequenceBackbone,
    Table,
    TransformerDecoder,
    WithMemory,
    from_spec,
    load_backbone,
)
from agentlib.backbones.image_choice import (
    SMALL_IMAGE,
    Build,
    cnn,
    is_image,
    is_picture,
    layout_of,
    nature_cnn,
    resnet,
    small_cnn,
    swin,
    vit,
)
from agentlib.core.modes import in_eval_mode
from agentlib.core.names import close_matches
from agentlib.core.randomness import host_generator_kept
from agentlib.core.spaces import leaf_shape, leaf_spaces, to_tensors

BackboneChoice = str | Path | Mapping[str, Any] | nn.Module
"""A name, a file, a spec, or a built network."""
DEFAULT_WIDTHS = (64, 64)


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
    if backbone not in NAMED_BACKBONES:
        if isinstance(backbone, Path) or backbone.endswith(".safetensors") or Path(backbone).is_file():
            return _fitting(load_backbone(backbone), space)
        raise ValueError(
            f"unknown backbone {backbone!r}{close_matches(backbone, NAMED_BACKBONES)}; or give a file that "
            "save_backbone wrote, a spec, or a module of your own"
        )
    leaf_spaces(space)  # refuses what has no fixed shape
    if backbone == "auto" and memory:
        backbone = "lstm"
    if backbone in MEMORIES:
        return with_memory(space, net_arch, normalize, backbone, actions)
    layers = layers if backbone in ("auto", "mlp") else {}
    return NAMED_BACKBONES[backbone].build(space, net_arch, normalize, **layers)


def space_of(x: Tensor) -> spaces.Box:
    """The space of one of the examples `(N, ...)`: pictures between 0 and 1, other numbers without bounds."""
    shape = tuple(x.shape[1:])
    if x.dtype == torch.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    is_picture = x.dim() == 4 and len(x) > 0 and float(x.min()) >= 0.0 and float(x.max()) <= 1.0
    low, high = (0.0, 1.0) if is_picture else (-np.inf, np.inf)
    return spaces.Box(low, high, shape, np.float32)


def _fitting(network: nn.Module, space: spaces.Space[Any]) -> nn.Module:
    """The network, after it has shown on two observations that it takes them; networks with memory are trusted."""
    leaf_spaces(space)  # refuses what has no fixed shape
    if getattr(network, "is_sequence", False):
        return network
    pair = batch_space(space, 2)
    pair.seed(0)
    device = next((tensor.device for tensor in [*network.parameters(), *network.buffers()]), "cpu")
    try:
        with in_eval_mode(network):
            features = network(to_tensors(space, pair.sample(), device))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"this backbone does not take observations of {space}: {error}") from error
    expected = (2, getattr(network, "feature_dim", None))
    if not isinstance(features, Tensor) or tuple(features.shape) != expected:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"a backbone gives features (B, feature_dim), for two observations {expected}, not {found}")
    return network


def auto(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool, **layers: Any) -> nn.Module:
    """The network that "auto" means for a space; see `backbone_for`."""
    if is_image(space):
        return nature_cnn(space, net_arch, normalize)
    if is_picture(space) and net_arch is None:
        assert isinstance(space, spaces.Box)
        return small_cnn(space.shape)
    return mlp(space, net_arch, normalize, images=True, **layers)


def mlp(
    space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool, *, images: bool = False, **layers: Any
) -> nn.Module:
    """Layers of `net_arch`, also on flattened images; with `images`, those in a Dict or Tuple have a network."""
    encoder = _encoder(space, normalize, images)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return Chain([encoder, MLP(encoder.feature_dim, net_arch or DEFAULT_WIDTHS, **layers)])
    widths = net_arch if net_arch is not None else DEFAULT_WIDTHS
    if isinstance(encoder, MLP):
        return MLP(encoder.input_dim, widths, **layers)
    return Chain([encoder, MLP(encoder.feature_dim, widths, **layers)])


def _encoder(space: spaces.Space[Any], normalize: bool, images: bool) -> Backbone:
    """Features of each part; `images` says whether images get a convolutional network of their own."""
    if isinstance(space, spaces.Dict):
        return Nested({key: _encoder(part, normalize, images) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return Nested([_encoder(part, normalize, images) for part in space.spaces])
    if isinstance(space, spaces.Discrete):
        return OneHot([int(space.n)], [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        return OneHot(space.nvec.ravel().tolist(), space.start.ravel().tolist())
    if isinstance(space, spaces.Box) and is_image(space) and images:
        shape, channels_last = layout_of(space.shape)
        return NatureCNN(shape, feature_dim=256, channels_last=channels_last)
    flat = MLP(int(np.prod(space.shape or ())), ())
    if (
        normalize
        and isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and not is_picture(space)
    ):
        return Chain([RunningNorm(space.shape), flat])
    return flat


def table_for(space: spaces.Space[Any]) -> Table:
    """One feature for each observation of a space of categories.

    Raises:
        ValueError: a part of it is a Box; or there are more observations than a table has room for.
    """
    sizes, start = list[int](), list[int]()
    for leaf in leaf_spaces(space):
        if isinstance(leaf, spaces.Box):
            kinds = "Discrete, MultiDiscrete or MultiBinary"
            raise ValueError(f"a table needs observations of categories ({kinds}), not {space}: train dqn")
        counts: Any = leaf.n if isinstance(leaf, spaces.Discrete) else getattr(leaf, "nvec", 2)
        counts = np.broadcast_to(counts, leaf_shape(leaf))
        sizes += counts.ravel().tolist()
        start += np.broadcast_to(getattr(leaf, "start", 0), counts.shape).ravel().tolist()
    return Table(sizes, start)


def with_memory(
    space: spaces.Space[Any],
    net_arch: Sequence[int] | None,
    normalize: bool,
    memory: str,
    actions: spaces.Space[Any] | None = None,
) -> WithMemory:
    """An encoder by the space, layers of `net_arch` but the last, and a memory whose width is the last.

    Raises:
        ValueError: no widths.
    """
    if net_arch is not None and not net_arch:
        raise ValueError(f"net_arch of {memory} ends with the width of the memory: give at least one number")
    *widths, width = net_arch if net_arch is not None else DEFAULT_WIDTHS
    encoder: Backbone = _encoder(space, normalize, images=True)
    if widths:
        head = MLP(encoder.feature_dim, widths)
        encoder = MLP(encoder.input_dim, widths) if isinstance(encoder, MLP) else Chain([encoder, head])
    read: int | tuple[int, ...] | None = None
    if isinstance(actions, spaces.Discrete):
        read = int(actions.n)
    elif actions is not None:
        read = tuple(actions.shape or ())
    action_width = 0 if read is None else read if isinstance(read, int) else int(np.prod(read))
    return WithMemory(encoder, MEMORIES[memory](encoder.feature_dim + action_width, width), read)


MEMORIES: dict[str, Callable[[int, int], SequenceBackbone]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "transformer": lambda input_dim, width: TransformerDecoder(
        input_dim, width, layers=2, heads=math.gcd(width // 2, 4), window=32
    ),
}
"""Networks with memory by name, from their input's width and their own."""


@dataclass(frozen=True)
class NamedBackbone:
    """The network behind a name."""

    build: Build
    summary: str
    takes: str
    """The observations that it is for."""
    reference: str
    example: spaces.Space[Any]
    """A space to count its parameters on."""

    def parameters(self) -> int:
        """Numbers that it learns, built for `example`."""
        with host_generator_kept():
            return sum(parameter.numel() for parameter in self.build(self.example, None, False).parameters())


def _remembering(name: str, summary: str, reference: str) -> NamedBackbone:
    takes = "any observations, in learners that can use memory"
    return NamedBackbone(partial(with_memory, memory=name), summary, takes, reference, VECTOR)


VECTOR = spaces.Box(-np.inf, np.inf, (4,))
FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
SMALL_PICTURE = spaces.Box(0, 255, (3, 32, 32), np.uint8)
NAMED_BACKBONES: dict[str, NamedBackbone] = {
    "auto": NamedBackbone(
        auto,
        "by the kind of input: a CNN for images, an encoder for each part of a Dict or Tuple, an MLP elsewhere",
        "any observations",
        "Raffin et al. 2021",
        VECTOR,
    ),
    "mlp": NamedBackbone(
        mlp, "layers of net_arch, also on flattened images", "any observations", "Rumelhart et al. 1986", VECTOR
    ),
    "nature_cnn": NamedBackbone(
        nature_cnn, "three convolutions and a layer of 512", "images of at least 36x36", "Mnih et al. 2015", FRAMES
    ),
    "cnn": NamedBackbone(
        cnn,
        "three 3x3 convolutions with poolings and LayerNorm, and a layer of 128",
        "small images, of at least 4x4",
        "LeCun et al. 1998",
        SMALL_PICTURE,
    ),
    "resnet": NamedBackbone(
        resnet,
        f"three residual blocks up to {SMALL_IMAGE}x{SMALL_IMAGE}, ResNet-18 above; GroupNorm",
        "images of at least 3x3",
        "He et al. 2016",
        SMALL_PICTURE,
    ),
    "vit": NamedBackbone(
        vit,
        "a transformer of 4 layers, width 64, on up to a hundred patches",
        "images whose sides have a common divisor",
        "Dosovitskiy et al. 2021",
        SMALL_PICTURE,
    ),
    "swin": NamedBackbone(
        swin,
        "a transformer of shifted windows, one or two stages of 2 layers, width 48 and 96",
        "images whose sides have a common divisor",
        "Liu et al. 2021",
        SMALL_PICTURE,
    ),
    "rnn": _remembering("rnn", "an encoder of each observation, then a plain recurrent network", "Elman 1990"),
    "lstm": _remembering("lstm", "an encoder of each observation, then an LSTM", "Hochreiter & Schmidhuber 1997"),
    "gru": _remembering("gru", "an encoder of each observation, then a GRU", "Cho et al. 2014"),
    "transformer": _remembering(
        "transformer",
        "an encoder of each observation, then 2 layers that see 32 steps back each",
        "Vaswani et al. 2017",
    ),
}
"""The networks that `backbone=` takes by name."""
