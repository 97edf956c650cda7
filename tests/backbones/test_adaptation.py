"""LoRA: its formula, rank 0, merged weights, and files, for every kind of network."""

from typing import Any

import pytest
import torch
from torch import nn

from agentlib.backbones import load_backbone, lora, merged, save_backbone
from tests.backbones.examples import EXAMPLES
from tests.backbones.test_every_backbone import features_of

WITHOUT_WEIGHTS = ("one_hot", "table", "running_norm")
each_network = pytest.mark.parametrize(
    "name", [name for name in EXAMPLES if ":" not in name and name not in WITHOUT_WEIGHTS]
)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def changed(network: nn.Module) -> nn.Module:
    """With changes that are not 0, as training makes them."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return network


def test_a_weight_is_what_it_was_and_a_product():
    layers: Any = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(2, 5, 3))
    before = [layer.weight.detach().clone() for layer in layers]
    changed(lora(layers, 2, alpha=6.0))
    for layer, weight in zip(layers, before, strict=True):
        change = layer.parametrizations.weight[0]
        assert (change.out.shape, change.into.shape) == ((len(weight), 2), (2, weight[0].numel()))
        torch.testing.assert_close(layer.weight, weight + 3.0 * (change.out @ change.into).reshape(weight.shape))
    trained = [parameter.numel() for parameter in layers.parameters() if parameter.requires_grad]
    assert sum(trained) == 2 * (4 + 3) + 2 * (5 + 2 * 3 * 3)


@each_network
@pytest.mark.parametrize("rank", [0, 2])
def test_it_begins_as_the_network_was_and_of_rank_0_stays_so(name, rank):
    network, inputs = EXAMPLES[name].build().eval(), EXAMPLES[name].inputs(3)
    before = features_of(network, inputs)
    after = features_of(lora(network, rank), inputs)
    if name == "map_tokens" and rank == 0:  # without gradients its convolutions add up in another order
        torch.testing.assert_close(after, before.detach(), rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(after, before)
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    assert all("parametrizations" in key for key in trained)
    assert bool(trained) == bool(rank)


@each_network
def test_merged_it_computes_the_same_and_so_does_its_file(name, tmp_path):
    network, inputs = EXAMPLES[name].build().eval(), EXAMPLES[name].inputs(3)
    plain, before = set(network.state_dict()), features_of(network, inputs)
    found = features_of(changed(lora(network, 2)), inputs)
    assert (found - before).abs().max() > 1e-3
    one = merged(network)
    assert set(one.state_dict()) == plain
    assert all(parameter.requires_grad for parameter in one.parameters())
    again = load_backbone(save_backbone(network, tmp_path / "network"))
    for same in (one, network, again):  # the one that was merged is left as it is
        torch.testing.assert_close(features_of(same, inputs), found)
    assert merged(one) is one
    torch.testing.assert_close(features_of(lora(network, 1), inputs), found)  # again, on top of the first


def test_mistakes():
    with pytest.raises(ValueError, match="rank must be a whole number from 0, not -1"):
        lora(nn.Linear(2, 2), -1)
    for name in WITHOUT_WEIGHTS:
        with pytest.raises(ValueError, match="has no weight of a linear layer, convolution or recurrent cell"):
            lora(EXAMPLES[name].build(), 2)
