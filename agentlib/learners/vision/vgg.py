"""A VGG for style transfer (Simonyan and Zisserman 2015, arXiv:1409.1556), with weights that torchvision's has.

    x' = (x - mean) / deviation of ImageNet;      map_i = relu(conv3x3_i(map_i-1)), pooled to half between blocks

Weights are read by their names alone, such as "features.0.weight"; where a block ends their numbers say. Nothing is
downloaded. We differ: the pooling is an average, as Gatys et al. (2016) found it nicer, and the classifier is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, which torchvision's networks are used to."""


class VGG(nn.Module):
    """The convolutions of one of torchvision's vgg11, vgg13, vgg16 and vgg19, for `maps`.

    Args:
        state: its state dict, such as `torch.load(file, weights_only=True)` or safetensors' `load_file(file)` give it.
        pooling: "average" or "max" of 2x2 places.

    Raises:
        ValueError: it is no such state dict; one with batch normalization, for example.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, state: Mapping[str, Tensor], pooling: Literal["average", "max"] = "average") -> None:
        super().__init__()
        found = [re.fullmatch(r"features\.(\d+)\.weight", name) for name in state]
        places = sorted(int(match[1]) for match in found if match)
        weights = [state[f"features.{place}.weight"] for place in places]
        are_whole = all(f"features.{place}.bias" in state for place in places)
        if not are_whole or places[:1] != [0] or any(one.dim() != 4 or one.shape[2:] != (3, 3) for one in weights):
            raise ValueError(
                "this is no state dict of torchvision's VGG without batch normalization: features.0.weight and so on "
                "are the 3x3 convolutions of vgg11, vgg13, vgg16 or vgg19"
            )
        self.pooling, self.names = pooling, list[str]()
        self.convolutions, self.is_pooled = nn.ModuleList(), list[bool]()
        block = number = 1
        for before, place, weight in zip([-2, *places], places, weights, strict=False):
            self.is_pooled.append(place - before == 3)  # a convolution, its ReLU, and a pooling
            block, number = (block + 1, 1) if self.is_pooled[-1] else (block, number)
            self.names.append(f"conv{block}_{number}")
            number += 1
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({name: state[f"features.{place}.{name}"] for name in ("weight", "bias")})
            self.convolutions.append(convolution)
        for name, numbers in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def maps(self, image: Tensor) -> list[Tensor]:
        """The maps `(B, C, h, w)` behind each convolution, of images `(B, 3, H, W)` between 0 and 1.

        They are called as in the paper: `names` has "conv1_1" for the first one of the first block, and so on.
        """
        pool = functional.avg_pool2d if self.pooling == "average" else functional.max_pool2d
        x, found = (image - self.mean) / self.deviation, list[Tensor]()
        for convolution, is_pooled in zip(self.convolutions, self.is_pooled, strict=True):
            x = functional.relu(convolution(pool(x, 2) if is_pooled else x))
            found.append(x)
        return found
