"""What is compiled in place of what was traced: the same numbers, but for rounding, and sooner. On the CPU.

Patterns are looked for in the graph, where shapes are not known. The functions that take their place are traced again,
with shapes, and do the usual thing where the other would not pay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from agentlib.core.step import once
from agentlib.engine.torch_private import fused_convolution_and_relu, gives_views, is_operation, written_by

aten = torch.ops.aten
VIEWS = (aten.t.default, aten.detach.default)
"""Through which a matrix keeps its norm."""
NARROW = 16
"""Columns up to which a product is narrow."""
FEW = 8
"""Up to so many tanh in a graph are replaced. Each takes about half a second of compiling, and an LSTM has hundreds."""
OUT_OF_CACHE = 1 << 20
"""From so many numbers on, reading a matrix takes longer than what it costs to do without."""

TANH_ABOVE = (9.99999994e-1, 1.34444972e-1, 3.57159709e-3, 2.18946459e-5, 1.52303944e-8)
TANH_BELOW = (1.0, 4.67778245e-1, 2.61644394e-2, 3.41129046e-4, 8.52243731e-7)
"""Of the powers of x^2: fitted to tanh(x) / x between 0 and 8 for the least relative error, which is 6e-9."""


def rewrite(graph: fx.Graph) -> None:
    """Replaces patterns in a graph of `torch.ops.aten`.

    What is new stands where the first operation of its pattern stood: later ones may change tensors in place.
    """
    tanh_is_replaced = sum(node.target is aten.tanh.default for node in graph.nodes) <= FEW
    for node in list(graph.nodes):
        if node.target is aten.view.default and not _is_written_elsewhere(node):
            node.target = aten.reshape.default  # what it views may be laid out otherwise in a compiled graph
        elif node.target is aten.addmm.default and not node.kwargs:
            _replace(node, node, linear, node.args)
        elif node.target in (aten.mm.default, aten.bmm.default):
            _replace(node, node, product, node.args)
        elif node.target is aten.tanh.default and tanh_is_replaced:
            _replace(node, node, tanh, node.args)
        elif node.target is aten.relu.default:
            before = node.args[0]
            if before.target is aten.convolution.default and list(before.users) == [node]:
                _replace(node, before, convolution_and_relu, before.args)
        elif node.target is aten.linalg_vector_norm.default and len(node.args) == 1 and not node.kwargs:
            found = _unchanged_product(node.args[0])
            if found is not None:
                _replace(node, found, norm_of_product, (*found.args, found))


def _replace(node: fx.Node, first: fx.Node, function: Any, args: Any) -> None:
    with node.graph.inserting_after(first):
        node.replace_all_uses_with(node.graph.call_function(function, tuple(args)))
    node.graph.erase_node(node)


def _unchanged_product(node: Any) -> fx.Node | None:
    """The product of matrices whose numbers a node has, if nothing changes these."""
    while isinstance(node, fx.Node) and node.target in VIEWS:
        node = node.args[0]
    return node if node.target is product and len(node.args) == 2 and not _is_changed(node) else None


def _is_written_elsewhere(view: fx.Node) -> bool:
    """Whether anything writes to the memory of a view, through it or through what it views."""
    root: Any = view
    while isinstance(root, fx.Node) and is_operation(root.target) and gives_views(root.target):
        root = root.args[0]
    return not isinstance(root, fx.Node) or root.op == "placeholder" or _is_changed(root)


def _is_changed(node: fx.Node) -> bool:
    """Whether anything writes to a node's numbers, also through a view of them."""
    for user in node.users:
        if not is_operation(user.target):
            continue
        if node in list(written_by(user.target, user.args, dict(user.kwargs))):
            return True
        if gives_views(user.target) and _is_changed(user):
            return True
    return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """`A B`, of matrices or batches of them; as `(B'A')'` where it is narrow, which takes a quarter of the time.

    So it is of the gradient of a first layer's weights, where observations are a few numbers.
    """
    multiplied = aten.mm if a.dim() == 2 else aten.bmm
    if a.dtype != torch.float32 or a.device.type != "cpu" or not b.shape[-1] <= NARROW < a.shape[-2]:
        return multiplied(a, b)  # type: ignore[no-any-return]
    return multiplied(b.mT, a.mT).mT.contiguous()  # type: ignore[no-any-return]


def linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`x W' + b (B, n)`, as `(W x')' + b`.

    A product first copies its second factor into an order of its own, which for a small batch takes as long as the
    product. So this is the batch, and not the weights.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return aten.addmm(bias, x, weight)  # type: ignore[no-any-return]
    return once(((weight.t() @ x.t()).t() + bias).contiguous())  # in the usual order: random numbers are laid over it


def tanh(x: Tensor) -> Tensor:
    """x P(x^2) / Q(x^2), within 4e-7 of each value of tanh: a fifth of the time that it takes by exponentials."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return aten.tanh(x)  # type: ignore[no-any-return]
    x = x.clamp(-8.0, 8.0)  # beyond, it is 1 but for rounding
    square = x * x
    return x * _polynomial(TANH_ABOVE, square) / _polynomial(TANH_BELOW, square)  # type: ignore[no-any-return]


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Any:
    value: Any = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def convolution_and_relu(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """Both in one pass over the output, by oneDNN; one channel and one pixel have their places in two orders at once.

    Of these the compiler and the operation each choose one, which need not be the same: the output would be mixed up.
    """
    stride, padding, dilation, transposed, _, groups = settings
    apart = x.dim() == 4 and x.shape[1] > 1 and x.shape[2] * x.shape[3] > 1
    if x.device.type != "cpu" or not apart or transposed or not torch.backends.mkldnn.is_available():
        return aten.relu(aten.convolution(x, weight, bias, *settings))  # type: ignore[no-any-return]
    return fused_convolution_and_relu(x, weight, bias, stride, padding, dilation, groups)


def norm_of_product(a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """The norm of `A B`, without reading it where it is large and the sum in it short.

    |A B|^2 is the sum of `A'A` times `B B'`, number by number (Goodfellow 2015, "Efficient per-example gradient
    computations"). A gradient of a linear layer is such a product, over the batch.
    """
    if product.numel() < OUT_OF_CACHE or a.shape[1] * 4 > min(product.shape) or product.device.type != "cpu":
        return aten.linalg_vector_norm(product)  # type: ignore[no-any-return]
    return ((a.t() @ a) * (b @ b.t())).sum().clamp(min=0.0).sqrt()
