import math

import pytest
import torch
from torch import nn

from agentlib.backbones import MLP
from agentlib.backbones.derivatives import (
    gradient_error,
    jacobian,
    jvp,
    of_inputs,
    of_parameters,
    second_derivatives,
    vjp,
)
from agentlib.policies import CategoricalPolicy


def policy():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        return CategoricalPolicy(MLP(3, (5,), activation="tanh"), n_actions=4).double()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_known_derivative():
    x = torch.tensor(1.0, dtype=torch.float64)

    def function(x):
        return torch.cos(x * torch.sin(x))

    def derivative(x):
        return -math.sin(x * math.sin(x)) * (math.sin(x) + x * math.cos(x))

    assert float(jvp(function, x, torch.ones_like(x))) == pytest.approx(-1.030284, abs=1e-6)
    assert float(vjp(function, x, torch.ones_like(x))) == pytest.approx(derivative(1.0), abs=1e-14)
    slope = (derivative(1.0 + 1e-6) - derivative(1.0 - 1e-6)) / 2e-6
    assert float(second_derivatives(function, x)) == pytest.approx(slope, abs=1e-8)


def test_products_are_columns_and_rows_of_the_jacobian():
    function, x = of_inputs(policy()), random(1, 3)
    whole = jacobian(function, x)[0, :, 0]  # (4, 3)
    assert torch.allclose(whole, jacobian(function, x, forward=True)[0, :, 0])
    for i, direction in enumerate(torch.eye(3, dtype=torch.float64)):
        assert torch.allclose(jvp(function, x, direction[None])[0], whole[:, i])
    for j, weights in enumerate(torch.eye(4, dtype=torch.float64)):
        assert torch.allclose(vjp(function, x, weights[None])[0], whole[j])
    u, v = random(1, 4, seed=1), random(1, 3, seed=2)
    forward, backward = (u * jvp(function, x, v)).sum().detach(), (vjp(function, x, u) * v).sum().detach()
    assert float(forward) == pytest.approx(float(backward), abs=1e-14)  # <u, J v> = <J' u, v>


def test_a_jacobian_by_hand():
    """W2 diag(1 - tanh^2(W1 x + b1)) W1."""
    network, x = policy(), random(1, 3)
    first = network.backbone.layers[0]
    assert isinstance(first, nn.Linear)
    slope = 1 - torch.tanh(first(x[0])) ** 2
    expected = network.head.weight @ torch.diag(slope) @ first.weight
    assert torch.allclose(jacobian(of_inputs(network), x)[0, :, 0], expected)


def test_parameters():
    network, x = policy(), random(6, 3)
    network.head.bias.requires_grad_(False)
    function, parameters = of_parameters(network, x)
    assert "head.bias" not in parameters
    found = vjp(function, parameters, torch.ones(6, 4, dtype=torch.float64))
    network(x)[0].sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(found[name], parameter.grad)


def test_a_hessian():
    matrix = random(4, 4)

    def quadratic(x):
        return 0.5 * x @ matrix @ x

    assert torch.allclose(second_derivatives(quadratic, random(4)), (matrix + matrix.T) / 2)
    function = of_inputs(policy())
    whole = second_derivatives(lambda x: function(x).logsumexp(1).sum(), random(1, 3))[0, :, 0]
    assert torch.allclose(whole, whole.T)


def test_gradients_are_checked():
    network = policy()

    def function(x):
        return network(x)[0].square().sum()

    assert gradient_error(function, random(2, 3)) < 1e-8

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.sum()

        @staticmethod
        def backward(context, slope):
            return 1.01 * slope.expand(2, 3)

    assert gradient_error(Wrong.apply, random(2, 3)) == pytest.approx(0.01, rel=0.05)
    with pytest.raises(TypeError, match="need float64"):
        gradient_error(function, random(2, 3).float())
