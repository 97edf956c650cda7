"""First weights: their variances, and what they do to the scale of activations through twenty layers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from agentlib.backbones import MLP, initialize
from agentlib.backbones.layers import INITIALIZATIONS, scale_branches


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


LAYERS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(400, 300), 400, 300),
    "conv": (lambda: nn.Conv2d(40, 80, 3), 360, 720),
    "strided up": (lambda: nn.ConvTranspose2d(64, 64, 4, 2), 256, 1024),
    "grouped": (lambda: nn.Conv1d(120, 240, 5, groups=4), 150, 300),
}
"""Layer, inputs of one output, and what Glorot's formula takes for the outputs of one input."""


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_variances(layer, gain):
    make, inputs, _ = LAYERS[layer]
    module = make()
    for name, variance in {"1/d": 1.0 / inputs, "he": 2.0 / inputs}.items():
        initialize(module, name, gain)
        count = module.weight.numel()
        expected = gain**2 * variance
        assert float(module.weight.var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / count))
        assert abs(float(module.weight.mean())) < 5 * math.sqrt(expected / count)
        assert not module.bias.any()
        assert float(module.weight.abs().max()) > 3.5 * math.sqrt(expected)  # a normal distribution, not a uniform one


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_glorot(layer):
    make, inputs, outputs = LAYERS[layer]
    module = make()
    initialize(module, "glorot", 2.0)
    variance = 2.0**2 * 2.0 / (inputs + outputs)
    assert float(module.weight.var()) == pytest.approx(variance, rel=0.02)
    assert float(module.weight.abs().max()) <= math.sqrt(3.0 * variance)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(30, 30), (20, 30), (30, 20)])
def test_orthogonal(fan_in, fan_out):
    layer = nn.Linear(fan_in, fan_out)
    initialize(layer, "orthogonal", 1.5)
    weight = layer.weight if fan_out <= fan_in else layer.weight.T
    torch.testing.assert_close(weight @ weight.T, 1.5**2 * torch.eye(min(fan_in, fan_out)), rtol=0, atol=1e-5)


def test_truncated_normal():
    layer = nn.Linear(500, 500)
    initialize(layer, "truncated_normal")
    assert float(layer.weight.abs().max()) <= 0.04
    assert float(layer.weight.std()) == pytest.approx(0.02 * math.sqrt(0.7737), rel=0.01)  # of the cut distribution


def test_torchs_own_stay():
    one, two = nn.Linear(3, 4), nn.Linear(3, 4)
    two.load_state_dict(one.state_dict())
    state = torch.get_rng_state()
    initialize(one, "torch")
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)
    assert torch.equal(torch.get_rng_state(), state)


def scales(name, activation, depth=20, width=512, batch=256):
    """Mean square of the values before each of the activations, layer by layer."""
    x = torch.randn(batch, width)
    found = []
    for _ in range(depth):
        layer = nn.Linear(width, width)
        initialize(layer, name)
        nn.init.zeros_(layer.bias)
        with torch.no_grad():
            z = layer(x)
            x = activation(z)
        found.append(float(z.square().mean()))
    return found


@pytest.mark.parametrize(
    ("name", "activation"), [("1/d", nn.Identity()), ("orthogonal", nn.Identity()), ("glorot", nn.Identity())]
)
def test_variance_is_kept_through_twenty_linear_layers(name, activation):
    assert all(0.9 < scale < 1.1 for scale in scales(name, activation))


@pytest.mark.slow
def test_relu_needs_twice_the_variance():
    # Rectified values all point the same way, so that a batch does not average the weights' luck out: many networks do.
    he = np.mean([scales("he", nn.ReLU(), width=256, batch=4) for _ in range(200)], axis=0)
    assert np.all(abs(he / 2.0 - 1.0) < 0.1)
    one = np.mean([scales("1/d", nn.ReLU(), width=256, batch=4) for _ in range(200)], axis=0)
    assert one[-1] / one[0] == pytest.approx(0.5**19, rel=0.1)


def test_torchs_own_shrink_threefold_per_layer():
    found = scales("torch", nn.Identity())
    assert found[-1] / found[0] == pytest.approx(3.0**-19, rel=0.15)


def test_depth_scaled_branches_keep_the_sum_at_the_scale_of_one():
    x = torch.randn(256, 128)
    for blocks in (2, 8, 32):
        layers = [nn.Linear(128, 128, bias=False) for _ in range(2 * blocks)]  # two branches in a transformer's block
        for layer in layers:
            initialize(layer, "1/d")
        scale_branches(layers)
        total = sum(layer(x) for layer in layers)
        assert float(total.square().mean()) == pytest.approx(1.0, abs=0.1)
        assert float(layers[0].weight.var()) == pytest.approx(1.0 / 128 / (2 * blocks), rel=0.1)


def test_layers_whose_weight_is_computed_get_it_too():
    layer = weight_norm(nn.Linear(200, 200))
    initialize(layer, "he")
    assert float(layer.weight.var()) == pytest.approx(2.0 / 200, rel=0.05)
    before = layer.weight.detach().clone()
    scale_branches([layer, nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    torch.testing.assert_close(layer.weight, before / 2.0)


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_a_whole_network_learns_from_each(name):
    network = MLP(4, (16, 16), init=name)
    assert torch.isfinite(network(torch.randn(8, 4))).all()
    assert len({float(value) for value in network.parameters().__next__().flatten()[:10]}) == 10


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown initialization 'hee'; close matches: he"):
        initialize(nn.Linear(2, 2), "hee")
