"""The MLP and its options against formulas and against layers of torch that were put together by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.backbones import MLP
from agentlib.backbones.layers import ACTIVATIONS, NORMS


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_default_it_is_plain_layers_with_the_names_that_files_have():
    def by_hand():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU())

    ours, theirs = seeded(lambda: MLP(6, (8, 5))), seeded(by_hand)
    assert list(ours.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)  # the same draws: a seed gives what it gave
    x = numbers(4, 2, 3).float()
    assert torch.equal(ours(x), theirs(x.flatten(1)))


NORM_LAYERS: dict[str, Any] = {
    "none": nn.Identity,
    "layer": nn.LayerNorm,
    "channel": nn.LayerNorm,
    "group": lambda width: nn.GroupNorm(2, width),
    "rms": lambda width: nn.RMSNorm(width, eps=1e-6),
    "batch": nn.BatchNorm1d,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORM_LAYERS)
def test_equals_layers_of_torch(norm, activation):
    """Outputs and gradients, by copying weights."""
    make_norm, make_activation = NORM_LAYERS[norm], ACTIVATIONS[activation]
    ours = seeded(lambda: MLP(6, (16, 16), activation, norm)).double()
    layers = [[nn.Linear(width, 16), make_norm(16), make_activation()] for width in (6, 16)]
    theirs = nn.Sequential(*layers[0], *layers[1]).double()
    for parameter in ours.parameters():
        parameter.data += 0.1 * numbers(*parameter.shape)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = numbers(5, 6)
    mine, other = ours(x), theirs(x)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    weights = numbers(5, 16, seed=2)
    slopes = torch.autograd.grad((mine * weights).sum(), list(ours.parameters()))
    expected = torch.autograd.grad((other * weights).sum(), list(theirs.parameters()))
    for one, two in zip(slopes, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def test_residual_layers_add_their_input():
    network = seeded(lambda: MLP(6, (8, 8, 8, 5), "tanh", residual=True)).double()
    x = numbers(4, 6)
    first, second, third, last = (
        layer if isinstance(layer, nn.Linear) else layer[0]
        for layer in network.layers
        if not isinstance(layer, nn.Tanh)
    )
    a = torch.tanh(first(x))
    b = a + torch.tanh(second(a))
    c = b + torch.tanh(third(b))
    torch.testing.assert_close(network(x), torch.tanh(last(c)), rtol=0, atol=1e-12)
    for found, expected in zip(network.maps(x), [a, b, c, torch.tanh(last(c))], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_branches_start_scaled_by_their_number():
    plain, residual = (seeded(lambda on=on: MLP(8, (8,) * 4, residual=on)) for on in (False, True))
    for mine, other in zip(residual.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other / 2.0 if mine.dim() > 1 else other)
    normed = MLP(8, (8,) * 4, norm="layer", residual=True)
    gains = [module.weight for module in normed.modules() if isinstance(module, nn.LayerNorm)]
    assert all(torch.equal(gain, torch.full((8,), 0.5)) for gain in gains)


@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_a_zeroed_branch_is_the_identity(norm):
    network = MLP(6, (6, 6), norm=norm, residual=True)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    x = numbers(4, 6).float()
    assert torch.equal(network(x), x)


def gradient_norms(network, width=64):
    """Of the loss with respect to the output of each layer, from the first to the last."""
    maps = network.maps(numbers(32, width).float())
    weights = numbers(32, width, seed=2).float()
    return [float(slope.norm()) for slope in torch.autograd.grad((maps[-1] * weights).sum(), maps)]


def test_gradients_stay_flat_through_fifty_residual_layers():
    deep: dict[str, Any] = {"input_dim": 64, "hidden": (64,) * 50}
    residual = gradient_norms(seeded(lambda: MLP(**deep, norm="layer", residual=True)))
    plain = gradient_norms(seeded(lambda: MLP(**deep)))
    assert max(residual) / min(residual) < 4.0
    assert max(plain) / min(plain) > 1e6


def test_dropout_keeps_the_mean_and_is_off_in_eval():
    network, without = (seeded(lambda p=p: MLP(6, (400,), "sigmoid", dropout=p)) for p in (0.25, 0.0))
    x = numbers(1, 6).float()
    full = without(x)
    assert torch.equal(network.eval()(x), full)
    draws = seeded(lambda: torch.cat([network.train()(x) for _ in range(2000)]))  # (2000, 400)
    kept = draws != 0.0
    torch.testing.assert_close(draws[kept], (full / 0.75).expand_as(draws)[kept])
    assert abs(float(kept.double().mean()) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / kept.numel())
    error = ((draws.mean(0) - full[0]).abs() / full[0]).detach()
    assert float(error.max()) < 5 * math.sqrt(0.25 / 0.75 / 2000)


def test_activations_are_those_of_the_book():
    x = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64, requires_grad=True)
    values = x.detach()
    normal_cdf = 0.5 * (1.0 + torch.erf(values / math.sqrt(2.0)))
    formulas = {
        "relu": values.clamp(min=0.0),
        "tanh": (values.exp() - (-values).exp()) / (values.exp() + (-values).exp()),
        "sigmoid": 1.0 / (1.0 + (-values).exp()),
        "leaky_relu": torch.where(values < 0.0, 0.01 * values, values),
        "elu": torch.where(values < 0.0, values.exp() - 1.0, values),
        "gelu": values * normal_cdf,
        "gelu_tanh": values / (1.0 + (-math.sqrt(8.0 / math.pi) * (values + 0.044715 * values**3)).exp()),
        "silu": values / (1.0 + (-values).exp()),
    }
    assert set(formulas) == set(ACTIVATIONS)
    steepest = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25, "leaky_relu": 1.0, "elu": 1.0, "silu": 1.1}
    steepest |= {"gelu": 1.13, "gelu_tanh": 1.13}
    for name, expected in formulas.items():
        found = ACTIVATIONS[name]()(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        (slope,) = torch.autograd.grad(found.sum(), x)
        assert steepest[name] * 0.99 <= float(slope.max()) <= steepest[name] + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rleu"}, "unknown activation 'rleu'; close matches: relu"),
        ({"norm": "layers"}, "unknown normalization 'layers'; close matches: layer"),
        ({"norm": "zzz"}, f"unknown normalization 'zzz'; known: {', '.join(NORMS)}"),
        ({"init": "orthogonl"}, "unknown initialization 'orthogonl'; close matches: orthogonal"),
        ({"dropout": 1.5}, "between 0 and 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(4, (4,), **arguments)


def test_matches_functional_code():
    """The whole of it once, with every option, in plain functions."""
    network = seeded(lambda: MLP(6, (6, 6), "gelu", norm="layer", residual=True, init="he")).double()
    x = expected = numbers(3, 6)
    for layer in network.layers:
        linear, norm, _ = layer
        branch = functional.linear(expected, linear.weight, linear.bias)
        branch = functional.layer_norm(branch, (6,), norm.weight, norm.bias)
        expected = expected + functional.gelu(branch)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)


def test_without_layers_real_numbers_keep_their_type():
    """So that a network of float64 loses nothing in an encoder or critic that has none."""
    flat = MLP(3, ()).double()
    precise = torch.full((2, 3), 1.0 / 3.0, dtype=torch.float64)
    assert torch.equal(flat(precise), precise)
    assert flat(torch.ones(2, 3, dtype=torch.uint8)).dtype == torch.float32
    assert MLP(3, (4,))(precise).dtype == torch.float32
