"""A backbone that fits an observation space."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Tensor, nn

from agentlib.backbones import (
    CNN,
    GRU,
    LSTM,
    MLP,
    RNN,
    Backbone,
    Chain,
    NatureCNN,
    Nested,
    OneHot,
    ResNet,
    RunningNorm,
    SequenceBackbone,
    Swin,
    TransformerDecoder,
    ViT,
    WithMemory,
    from_spec,
    load_backbone,
)
from agentlib.backbones.names import close_matches
from agentlib.backbones.randomness import host_generator_kept
from agentlib.data import Dataset
from agentlib.envs.spaces import leaf_spaces
from agentlib.policies.acting import in_eval_mode, to_tensors

DEFAULT_WIDTHS = (64, 64)
SMALL_IMAGE = 64
"""Images with a side up to this get the small ResNet, larger ones ResNet-18."""

BackboneChoice = str | Path | Mapping[str, Any] | nn.Module
"""A name, a file, a spec, or a built network."""
Build = Callable[[spaces.Space[Any], Sequence[int] | None, bool], nn.Module]
"""(observation space, net_arch, normalize) -> network."""


@dataclass(frozen=True)
class NamedBackbone:
    """What a name stands for."""

    build: Build
    summary: str
    takes: str
    """What observations it is for."""
    reference: str
    example: spaces.Space[Any]
    """A space to count its parameters on."""

    def parameters(self) -> int:
        """Numbers that it learns, built for `example`."""
        with host_generator_kept():
            return sum(parameter.numel() for parameter in self.build(self.example, None, False).parameters())


def backbone_for(
    space: spaces.Space[Any],
    backbone: BackboneChoice = "auto",
    net_arch: Sequence[int] | None = None,
    normalize: bool = False,
    actions: spaces.Space[Any] | None = None,
) -> nn.Module:
    """A network from observations of `space` to features; "auto" and "mlp" build what SB3's default policies have.

    Args:
        space: the observation space, of one environment.
        backbone: a name of `NAMED_BACKBONES`; or a file that `save_backbone` wrote, a spec
            `{"name": ..., "arguments": {...}}`, or a built module, which are taken as they are.
        net_arch: widths of the hidden layers; by default 64 and 64, and none after a convolutional network.
        normalize: standardize floating-point parts of the observation by running statistics.
        actions: a network with memory that is built by its name also reads the last action, of this space.

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
    if backbone in MEMORIES:
        return with_memory(space, backbone, net_arch, normalize, actions)
    return NAMED_BACKBONES[backbone].build(space, net_arch, normalize)


def backbone_for_examples(
    data: Dataset, backbone: BackboneChoice = "auto", net_arch: Sequence[int] | None = None
) -> nn.Module:
    """A network from the examples of a data set to features; see `backbone_for`."""
    shape = tuple(data.x.shape[1:])
    if data.x.dtype == torch.uint8:
        return backbone_for(spaces.Box(0, 255, shape, np.uint8), backbone, net_arch)
    return backbone_for(spaces.Box(-np.inf, np.inf, shape, np.float32), backbone, net_arch)


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


def _auto(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool) -> nn.Module:
    if is_image(space):
        return _nature_cnn(space, net_arch, normalize)
    return _on_vectors(space, net_arch, normalize, images=True)


def _mlp(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool) -> nn.Module:
    return _on_vectors(space, net_arch, normalize, images=False)


def _on_vectors(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool, images: bool) -> nn.Module:
    encoder = _encoder(space, normalize, images)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return Chain([encoder, MLP(encoder.feature_dim, net_arch or DEFAULT_WIDTHS)])
    widths = net_arch if net_arch is not None else DEFAULT_WIDTHS
    if isinstance(encoder, MLP):
        return MLP(encoder.input_dim, widths)
    return Chain([encoder, MLP(encoder.feature_dim, widths)])


def _on_images(name: str, make: Callable[[tuple[int, ...], bool], Backbone]) -> Build:
    """A network of images, and layers of `net_arch` on top if there are any."""

    def build(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool) -> nn.Module:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            raise ValueError(f"{name} takes images, not {space}; use backbone='auto'")
        if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4:
            raise ValueError(f"{name} takes images, not {space}")
        network = make(*_layout(space.shape))
        return Chain([network, MLP(network.feature_dim, net_arch)]) if net_arch else network

    return build


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space holds uint8 images that the Nature CNN can take, grey ones and stacks among them."""
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and 2 <= len(space.shape) <= 4):
        return False
    return min(_sides(space.shape)) >= 36


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of images (H, W), (C, H, W), (H, W, C) or (S, H, W, C)."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return (shape[-3], shape[-2]) if _channels_last(shape) else (shape[-2], shape[-1])


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] < shape[0] and shape[-1] <= 4)


def _layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """The shape with an axis for the channels, and whether they are the last."""
    return (1, *shape) if len(shape) == 2 else shape, _channels_last(shape)


def image_encoder(space: spaces.Box, feature_dim: int) -> NatureCNN:
    """The Nature CNN for images of any of the usual layouts.

    Raises:
        ValueError: images that are too small, or no images.
    """
    shape, channels_last = _layout(space.shape)
    return NatureCNN(shape, feature_dim=feature_dim, channels_last=channels_last)


def _resnet(shape: tuple[int, ...], channels_last: bool) -> ResNet:
    name = "resnet_small" if min(_sides(shape)) <= SMALL_IMAGE else "resnet18"
    return ResNet.named(name, shape, channels_last=channels_last)


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
        return image_encoder(space, feature_dim=256)
    flat = MLP(int(np.prod(space.shape or ())), ())
    if normalize and isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Chain([RunningNorm(space.shape), flat])
    return flat


def _patch(shape: tuple[int, ...]) -> int:
    """The smallest side, from 2 on, of patches that tile an image and are not more than a hundred."""
    height, width = _sides(shape)
    common = math.gcd(height, width)
    found = [side for side in range(2, common + 1) if common % side == 0 and height * width <= 100 * side**2]
    if not found or found[0] == common == min(height, width):
        raise ValueError(
            f"no patches from 2x2 on tile an image of {height}x{width} in a useful way: pad or crop it to sides with a "
            "common divisor"
        )
    return found[0]


def _swin(shape: tuple[int, ...], channels_last: bool) -> Swin:
    """One stage, or two where the patches can be merged two by two, with the largest windows up to 7x7 that tile."""
    patch = _patch(shape)
    rows, columns = (side // patch for side in _sides(shape))
    stages = 2 if rows % 2 == columns % 2 == 0 else 1
    common = math.gcd(rows, columns) // stages
    window = next(side for side in range(7, 0, -1) if common % side == 0)
    return Swin(
        shape, patch, 48, depths=(2,) * stages, heads=(3, 6)[:stages], window=window, channels_last=channels_last
    )


def with_memory(
    space: spaces.Space[Any],
    memory: str,
    net_arch: Sequence[int] | None = None,
    normalize: bool = False,
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


def _remembering(name: str, summary: str, reference: str) -> NamedBackbone:
    def build(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool) -> nn.Module:
        return with_memory(space, name, net_arch, normalize)

    return NamedBackbone(build, summary, "any observations, in learners that can use memory", reference, VECTOR)


_nature_cnn = _on_images("nature_cnn", lambda shape, last: NatureCNN(shape, feature_dim=512, channels_last=last))

VECTOR = spaces.Box(-np.inf, np.inf, (4,))
FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
SMALL_PICTURE = spaces.Box(0, 255, (3, 32, 32), np.uint8)

NAMED_BACKBONES: dict[str, NamedBackbone] = {
    "auto": NamedBackbone(
        _auto,
        "by the observation space: a CNN for images, an encoder for each part of a Dict or Tuple, an MLP elsewhere",
        "any observations",
        "Raffin et al. 2021",
        VECTOR,
    ),
    "mlp": NamedBackbone(
        _mlp,
        "layers of net_arch, also on flattened images",
        "any observations",
        "Rumelhart et al. 1986",
        VECTOR,
    ),
    "nature_cnn": NamedBackbone(
        _nature_cnn,
        "three convolutions and a layer of 512",
        "images of at least 36x36",
        "Mnih et al. 2015",
        FRAMES,
    ),
    "cnn": NamedBackbone(
        _on_images("cnn", lambda shape, last: CNN(shape, channels_last=last)),
        "three 3x3 convolutions with poolings and LayerNorm, and a layer of 128",
        "small images, of at least 4x4",
        "LeCun et al. 1998",
        SMALL_PICTURE,
    ),
    "resnet": NamedBackbone(
        _on_images("resnet", _resnet),
        f"three residual blocks up to {SMALL_IMAGE}x{SMALL_IMAGE}, ResNet-18 above; GroupNorm",
        "images of at least 3x3",
        "He et al. 2016",
        SMALL_PICTURE,
    ),
    "vit": NamedBackbone(
        _on_images("vit", lambda shape, last: ViT(shape, _patch(shape), channels_last=last)),
        "a transformer of 4 layers, width 64, on up to a hundred patches",
        "images whose sides have a common divisor",
        "Dosovitskiy et al. 2021",
        SMALL_PICTURE,
    ),
    "swin": NamedBackbone(
        _on_images("swin", _swin),
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
"""What `backbone=` takes by name."""
