"""Residual networks against Hugging Face's, which are built from configs without a download."""

import copy
import os
from typing import Any

import pytest
import torch
from torch import nn

from agentlib.backbones import ResNet
from agentlib.backbones.resnet import RESNETS, Block

HEAD = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}
IMAGENET = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160}
"""Parameters as published, with the linear head for 1000 classes and batch normalization."""


@pytest.mark.parametrize("name", IMAGENET)
def test_parameters_are_those_published(name):
    with torch.device("meta"):
        network = nn.ModuleList([ResNet.named(name, (3, 224, 224), norm="batch"), nn.Linear(HEAD[name], 1000)])
    assert sum(parameter.numel() for parameter in network.parameters()) == IMAGENET[name]
    assert network[0].feature_dim == HEAD[name]


def hugging_face(blocks, width, bottleneck, small=False):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    widths = [width * 2**stage * (4 if bottleneck else 1) for stage in range(len(blocks))]
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=widths,
        depths=list(blocks),
        layer_type="bottleneck" if bottleneck else "basic",
    )
    return transformers.ResNetModel(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "width", "bottleneck"),
    [((2, 2, 2, 2), 64, False), ((1, 2, 1), 8, False), ((1, 2, 2), 8, True)],
    ids=["resnet18", "basic", "bottleneck"],
)
def test_equals_hugging_faces(blocks, width, bottleneck):
    """Outputs, maps, gradients and running statistics, by copying weights, in float64."""
    theirs = hugging_face(blocks, width, bottleneck).double()
    ours = ResNet((3, 48, 40), blocks, width, bottleneck, norm="batch").double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for value in theirs.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
        x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    copied = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(copied)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        mine, other = ours(x), theirs(x, output_hidden_states=True)
        scale = float(other.pooler_output.detach().abs().max())
        torch.testing.assert_close(mine / scale, other.pooler_output.flatten(1) / scale, rtol=0, atol=1e-10)
        for found, expected in zip(ours.maps(x) if not training else [], other.hidden_states, strict=not training):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        slopes = torch.autograd.grad(mine.sum() / scale, list(ours.parameters()))
        expected_slopes = torch.autograd.grad(other.pooler_output.sum() / scale, list(theirs.parameters()))
        for found, expected in zip(slopes, expected_slopes, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        for found, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_block_is_its_formula():
    block: Any = Block(4, 6, 2, False, "none", nn.ReLU).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    first, second, (shortcut,) = block.branch[0][0], block.branch[2][0], block.shortcut
    conv = nn.functional.conv2d
    branch = conv(conv(x, first.weight, first.bias, 2, 1).relu(), second.weight, second.bias, 1, 1)
    expected = (conv(x, shortcut.weight, shortcut.bias, 2) + branch).relu()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_zeroed_branch_is_the_identity(bottleneck):
    block = Block(8, 2 if bottleneck else 8, 1, bottleneck, "group", nn.ReLU)
    branch: Any = block.branch
    last = branch[-1][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    x = torch.rand(2, 8, 5, 5)
    assert torch.equal(block(x), x)


def test_the_scale_of_the_maps_does_not_grow_with_depth():
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        x = torch.randn(4, 3, 16, 16)
        scales = [float(ResNet((3, 16, 16), (count,), 32, stem="small")(x).square().mean()) for count in (1, 4, 16)]
    assert max(scales) < 4 * min(scales)


def test_the_small_one_keeps_small_images_large():
    shapes = [tuple(one.shape[1:]) for one in ResNet.named("resnet_small", (1, 8, 8)).maps(torch.rand(2, 1, 8, 8))]
    assert shapes == [(32, 8, 8), (32, 8, 8), (64, 4, 4), (128, 2, 2)]
    assert set(RESNETS) == {"resnet_small", *IMAGENET}


def test_features_are_the_mean_of_the_last_maps():
    network, x = ResNet.named("resnet_small", (1, 8, 8), width=8), torch.rand(2, 1, 8, 8)
    assert torch.equal(network(x), network.maps(x)[-1].mean((2, 3)))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    again = copy.deepcopy(network)
    assert torch.equal(again(x), network(x))
