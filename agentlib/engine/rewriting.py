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
OUT_OF_CACHE = 1 << 20
"""From so many numbers on, reading a matrix takes longer than what it costs to do without."""


def rewrite(graph: fx.Graph) -> None:
    """Replaces patterns in a graph of `torch.ops.aten`.

    What is new stands where the first operation of its pattern stood: later ones may change tensors in place.
    """
    for node in list(graph.nodes):
        if node.target is aten.view.default and not _is_written_elsewhere(node):
            node.target = aten.reshape.default  # what it views may be laid out otherwise in a compiled graph
        elif node.target is aten.addmm.default and not node.kwargs:
            _replace(node, node, linear, node.args)
        elif node.target is aten.relu.default:
            before = node.args[0]
            if before.target is aten.convolution.default and list(before.users) == [node]:
                _replace(node, before, convolution_and_relu, before.args)
        elif node.target is aten.linalg_vector_norm.default and len(node.args) == 1 and not node.kwargs:
            product = _unchanged_product(node.args[0])
            if product is not None:
                _replace(node, product, norm_of_product, (*product.args, product))


def _replace(node: fx.Node, first: fx.Node, function: Any, args: Any) -> None:
    with node.graph.inserting_after(first):
        node.replace_all_uses_with(node.graph.call_function(function, tuple(args)))
    node.graph.erase_node(node)


def _unchanged_product(node: Any) -> fx.Node | None:
    """The product of matrices whose numbers a node has, if nothing changes these."""
    while isinstance(node, fx.Node) and node.target in VIEWS:
        node = node.args[0]
    return node if node.target is aten.mm.default and not _is_changed(node) else None


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


def linear(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`x W' + b (B, n)`, as `(W x')' + b`.

    A product first copies its second factor into an order of its own, which for a small batch takes as long as the
    product. So this is the batch, and not the weights.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return aten.addmm(bias, x, weight)  # type: ignore[no-any-return]
    return once(((weight.t() @ x.t()).t() + bias).contiguous())  # in the usual order: random numbers are laid over it


def convolution_and_relu(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """Both in one pass over the output, by oneDNN."""
    stride, padding, dilation, transposed, _, groups = settings
    if x.device.type != "cpu" or x.dim() != 4 or transposed or not torch.backends.mkldnn.is_available():
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
