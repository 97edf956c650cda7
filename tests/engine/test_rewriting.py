"""Rewritten graphs give the same numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from agentlib.core.recipe import Problem
from agentlib.engine import run
from agentlib.engine.compiled import compiler_found
from agentlib.engine.rewriting import (
    FEW,
    OUT_OF_CACHE,
    convolution_and_relu,
    linear,
    norm_of_product,
    product,
    rewrite,
    tanh,
)
from agentlib.engine.tape import Tape
from agentlib.runs.plan import job_of

aten = torch.ops.aten


def both_ways(work, *tensors, targets=None):
    """The outputs of a traced function, and of its rewritten graph; and what was put into the graph.

    `targets` gets the operations of the rewritten graph.
    """
    tape = Tape()
    with tape:
        expected = work(*[tensor.clone() for tensor in tensors])
    graph, nodes = fx.Graph(), dict[Any, fx.Node]()
    for ref in tape.inputs:
        nodes[ref] = graph.placeholder(f"x{ref.number}")
    for function, args, kwargs, results, _ in tape.operations:
        known = [[nodes[a] for a in arg] if isinstance(arg, list) and arg and arg[0] in nodes else arg for arg in args]
        known = [nodes[arg] if not isinstance(arg, list) and arg in nodes else arg for arg in known]
        nodes[results[0]] = graph.call_function(function, tuple(known), kwargs)
    graph.output(nodes[tape.refs(expected)])
    rewrite(graph)
    graph.lint()
    if targets is not None:
        targets += [node.target for node in graph.nodes if node.op == "call_function"]
    put_in = [node.target for node in graph.nodes if node.target in (linear, convolution_and_relu, norm_of_product)]
    inputs = [tape.tensors[ref.number] for ref in tape.inputs]
    tape.undo()
    return expected, fx.GraphModule(nn.Module(), graph)(*inputs), put_in


def test_linear_layers():
    """Within rounding, and in the same order in memory: random numbers are drawn along it."""
    bias, x, weight = torch.randn(7), torch.randn(5, 3), torch.randn(7, 3)
    expected, found, put_in = both_ways(lambda b, x, w: torch.addmm(b, x, w.t()), bias, x, weight)
    assert put_in == [linear]
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.stride() == expected.stride()
    scaled, found, put_in = both_ways(lambda b, x, w: torch.addmm(b, x, w.t(), beta=0.5), bias, x, weight)
    assert put_in == []
    assert torch.equal(found, scaled)


def test_other_numbers_than_float32_are_added_up_as_before():
    bias, x, weight = (torch.randn(*shape, dtype=torch.bfloat16) for shape in [(7,), (5, 3), (7, 3)])
    assert torch.equal(linear(bias, x, weight.t()), torch.addmm(bias, x, weight.t()))


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("columns", [1, 4, 16, 17])
def test_narrow_products(batch, columns):
    """The same numbers in the same order in memory, whichever way they are multiplied."""
    a, b = torch.randn(*batch, 40, 30), torch.randn(*batch, 30, columns)
    targets: list[Any] = []
    expected, found, _ = both_ways(torch.matmul if not batch else torch.bmm, a, b, targets=targets)
    assert product in targets
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.is_contiguous()
    assert torch.equal(product(a.double(), b.double()), a.double() @ b.double())


def test_tanh_is_that_of_torch_but_for_rounding():
    x = torch.cat([torch.linspace(-12.0, 12.0, 100_001), torch.logspace(-30, 2, 1_000), torch.tensor([0.0, torch.inf])])
    exact, (_, found, _) = x.double().tanh(), both_ways(torch.tanh, x)
    assert ((found - exact).abs() <= 4e-7 * exact.abs()).all()
    assert found.abs().max() <= 1.0
    assert (tanh(-x) == -found).all()
    assert tanh(torch.tensor([torch.nan])).isnan()
    assert torch.equal(tanh(x.double()), exact)


@pytest.mark.parametrize("count", [FEW, FEW + 1])
def test_many_tanh_are_left_as_they_are(count):
    """Each that is replaced costs compiling."""
    targets: list[Any] = []
    both_ways(
        lambda x: torch.stack([torch.tanh(x * number) for number in range(count)]), torch.randn(3), targets=targets
    )
    assert [targets.count(tanh), targets.count(aten.tanh.default)] == ([count, 0] if count == FEW else [0, count])


@pytest.mark.parametrize("biased", [True, False])
def test_convolutions_with_their_relu(biased):
    x, weight, bias = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    work = lambda x, w, b: torch.relu(torch.conv2d(x, w, b if biased else None, 2, 1))  # noqa: E731
    expected, found, put_in = both_ways(work, x, weight, bias)
    assert put_in == [convolution_and_relu]
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found == 0).any()


def test_a_convolution_that_is_read_elsewhere_stays():
    def work(x: Tensor, weight: Tensor) -> Tensor:
        maps = torch.conv2d(x, weight)
        return torch.relu(maps) + maps

    expected, found, put_in = both_ways(work, torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
    assert put_in == []
    assert torch.equal(found, expected)


def test_one_dimensional_and_transposed_convolutions_are_computed_as_before():
    x, weight = torch.randn(2, 3, 9), torch.randn(4, 3, 3)
    assert torch.equal(
        convolution_and_relu(x, weight, None, [1], [0], [1], False, [0], 1), torch.relu(torch.conv1d(x, weight))
    )
    x, weight = torch.randn(2, 3, 9, 9), torch.randn(3, 4, 3, 3)
    found = convolution_and_relu(x, weight, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)
    assert torch.equal(found, torch.relu(torch.conv_transpose2d(x, weight, stride=2)))


@pytest.mark.parametrize("transposed", [True, False])
def test_the_norm_of_a_large_product(transposed):
    """More exact than reading it, also where its terms nearly cancel, as a gradient's do."""
    a, b = torch.randn(1_200, 16), torch.rand(16, 1_000)  # all of b is alike
    a -= a.mean(1, keepdim=True)
    assert a.shape[0] * b.shape[1] >= OUT_OF_CACHE
    norm = lambda a, b: torch.linalg.vector_norm((a @ b).t() if transposed else a @ b)  # noqa: E731
    expected, found, put_in = both_ways(norm, a, b)
    assert put_in == [norm_of_product]
    exact = torch.linalg.vector_norm(a.double() @ b.double())
    assert abs(found - exact) < 1e-6 * exact
    assert abs(found - exact) <= abs(expected - exact)


def test_the_norm_of_nothing_is_zero():
    a, b = torch.zeros(1_200, 16), torch.rand(16, 1_000)
    assert norm_of_product(a, b, a @ b) == 0.0


def test_a_small_product_is_read():
    a, b = torch.randn(12, 16), torch.randn(16, 10)
    assert torch.equal(norm_of_product(a, b, a @ b), torch.linalg.vector_norm(a @ b))


@pytest.mark.parametrize("through", [lambda x: x, Tensor.detach, Tensor.t, lambda x: x.view(-1)[1:]])
def test_a_product_that_is_changed_is_read(through):
    """Also where it is changed through a view."""

    def work(a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        through(product).mul_(2.0)
        return torch.linalg.vector_norm(product)

    expected, found, put_in = both_ways(work, torch.randn(1_200, 16), torch.randn(16, 1_000))
    assert put_in == []
    assert torch.equal(found, expected)


def test_what_a_pattern_reads_may_change_after_it():
    """The gradient's factors are changed before its norm is asked for."""

    def work(a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        a.mul_(0.0)
        return torch.linalg.vector_norm(product)

    a, b = torch.randn(1_200, 16), torch.randn(16, 1_000)
    _, found, put_in = both_ways(work, a, b)
    assert put_in == [norm_of_product]
    exact = torch.linalg.vector_norm(a.double() @ b.double())
    assert abs(found - exact) < 1e-6 * exact


def test_a_view_that_nothing_writes_may_be_a_copy():
    """In a compiled graph what it views may be laid out otherwise; where it is written, it stays a view."""
    targets: list[Any] = []

    def work(x):
        y = x * 2.0
        z = y + 1.0
        y.view(-1).add_(1.0)
        return y + z.view(6).view(2, 3)

    expected, found, _ = both_ways(work, torch.arange(6.0).view(2, 3), targets=targets)
    assert torch.equal(found, expected)
    assert targets.count(aten.view.default) == 1
    assert targets.count(aten.reshape.default) == 2


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_flattened_maps_of_a_convolution_compile():
    """Inductor lays them out by channels last; a view of them failed."""
    states = []
    for way in (True, "eager"):
        problem = Problem(data="shapes", steps=20, seed=0)
        job = job_of("classifier", problem, batch_size=32, net_arch=None, learning_rate=1e-4)
        list(run(job.learner, job.source, 20, compile=way))
        states.append(torch.cat([p.detach().flatten() for p in job.learner.parameters()]))
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)
