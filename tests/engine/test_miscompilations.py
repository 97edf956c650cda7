"""What torch's compiler gets wrong on this version of torch, and what is done against it.

Tests compile a pattern with and without what is done against it. Where both are right, what is done can go.
"""

import pytest
import torch
from torch import nn

from agentlib.core import Update
from agentlib.engine import compiled, rewriting, tape, torch_private
from agentlib.engine.compiled import compiler_found
from agentlib.engine.tape import Tape
from agentlib.engine.trace import Trace

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")]


class Compiled:
    """A function of tensors, compiled as updates are. It is called with the tensors that it was made with."""

    def __init__(self, work, tensors, folder):
        written = Tape()
        with torch.random.fork_rng(devices=[]), written:
            metrics = {str(number): written.refs(tensor) for number, tensor in enumerate(work(*tensors))}
        written.undo()
        self.inputs = [written.tensors[ref.number] for ref in written.inputs]
        inputs = dict(zip(written.inputs, self.inputs, strict=True))
        trace = Trace(written.operations, inputs, {}, Update(metrics), [])
        self.library = torch_private.load_library(compiled._built(trace, folder))

    def __call__(self):
        return self.library.run([tensor.detach() for tensor in self.inputs])


def wrong(work, tensors, folder):
    """The numbers of what comes out other than uncompiled, and of the tensors that are changed to something else."""
    mine, theirs = ([tensor.clone() for tensor in tensors] for _ in range(2))
    run = Compiled(work, mine, folder)
    for seed in range(2):
        results = []
        for function in (run, lambda: work(*theirs)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                results.append([tensor.clone() for tensor in function()])
    pairs = zip([*results[0], *mine], [*results[1], *theirs], strict=True)
    return [n for n, (one, other) in enumerate(pairs) if not torch.allclose(one, other, rtol=1e-4, atol=1e-5)]


def noise_over(x):
    return [
        torch.rand_like(x),
        torch.randn_like(x) + x,
        nn.functional.dropout(x),
        x.clone().uniform_(),
        (2.0 * x).bernoulli_(0.5),
        torch.zeros_like(x).exponential_(),
    ]


def noisy_maps(x, weight):
    """A compiler gives what comes out of a convolution an order of memory of its own."""
    return noise_over(torch.conv2d(x, weight))


def noisy_layer(bias, x, weight):
    return noise_over(torch.addmm(bias, x, weight.t()))


MAPS = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
LAYER = torch.randn(7), torch.randn(8, 6), torch.randn(7, 6)


def plainly_noisy(monkeypatch):
    monkeypatch.setattr(tape, "OF_A_SIZE", {})
    monkeypatch.setattr(tape, "fills_with_random_numbers", lambda operation: False)


def test_random_numbers_lie_where_they_do_uncompiled(tmp_path):
    assert wrong(noisy_maps, MAPS, tmp_path) == []


def test_random_numbers_would_lie_elsewhere(tmp_path, monkeypatch):
    """In the order of memory that a tensor has only when compiled: `Tape._is_laid_over`."""
    plainly_noisy(monkeypatch)
    monkeypatch.setitem(torch_private.OPTIONS, "layout_optimization", True)
    assert wrong(noisy_maps, MAPS, tmp_path) != []


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_product_in_another_order_has_the_usual_order_in_memory(contiguous, tmp_path, monkeypatch):
    """`rewriting.linear`; by itself, without what `Tape` does about it."""
    plainly_noisy(monkeypatch)
    if not contiguous:
        monkeypatch.setattr(rewriting, "linear", lambda bias, x, weight: (weight.t() @ x.t()).t() + bias)
    assert (wrong(noisy_layer, LAYER, tmp_path) == []) == contiguous


def old_and_new_values(count, power, x, y):
    """Patterns that earlier versions of torch, or another way of compiling, got wrong. They need no care now."""
    count.add_(1)  # read by nothing
    scale, root = 1.0 / (1.0 - power * 0.9), (1.0 - power).sqrt()
    power.mul_(0.9)  # after it was read, and before the numbers are used
    first, second = x * scale / root, y.sin() * scale
    x.add_(first)
    y.sub_(second)
    return [first.sum() + second.sum()]


def test_numbers_that_are_changed_after_they_are_read(tmp_path):
    tensors = (
        torch.zeros((), dtype=torch.float64),
        torch.tensor(0.9, dtype=torch.float64),
        torch.rand(40),
        torch.rand(9),
    )
    assert wrong(old_and_new_values, tensors, tmp_path) == []


def test_operations_without_a_c_interface_are_refused(tmp_path):
    """Compiled code that calls them is built, and fails when it is run, in the middle of an update."""
    with pytest.raises(RuntimeError, match="aten::multinomial cannot be called"):
        Compiled(lambda x: [torch.multinomial(x, 2)], [torch.rand(3, 4)], tmp_path)
