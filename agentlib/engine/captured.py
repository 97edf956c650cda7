"""The whole update as one CUDA graph: what a trace has written down, captured once, and launched as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agentlib.engine.tape import CannotCompile, Ref
from agentlib.engine.trace import Trace


class Captured:
    """A trace as a CUDA graph; `run(tensors)` does the update.

    Nothing is compiled. A GPU is told of all operations in one call, so that it need not wait for Python; nothing in it
    waits for the GPU. A graph works on memory, not on tensors: where these lie elsewhere, it is captured anew.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.addresses: list[int] = []
        self.graph: Any = None
        self.outputs: list[Tensor] = []

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Does the update on the trace's inputs; what it reports is the caller's to keep.

        Raises:
            CannotCompile: an operation cannot be captured; nothing has changed then.
        """
        addresses = [tensor.data_ptr() for tensor in tensors]
        if addresses != self.addresses:
            self.graph, self.outputs = capture(self.trace, tensors)
            self.addresses = addresses
        self.graph.replay()
        return [output.clone() for output in self.outputs]


def capture(trace: Trace, tensors: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """The graph, and the tensors in which it leaves what an update reports. Capturing doesn't do the update."""
    if not all(tensor.is_cuda for tensor in tensors):
        raise CannotCompile("it cannot be captured as a CUDA graph: the update works on tensors of the CPU, too")
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads of the host may go on with work of their own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            return graph, replayed(trace, tensors)
    except Exception as error:
        raise CannotCompile(f"it cannot be captured as a CUDA graph: {error}") from error


def replayed(trace: Trace, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Does the operations of a trace, one after the other, and returns what it reports."""
    values = dict(zip(trace.inputs, tensors, strict=True))
    uses = [_refs([*line.args, *line.kwargs.values(), *line.results]) for line in trace.operations]
    last = {ref: number for number, used in enumerate(uses) for ref in used}
    kept = {*trace.inputs, *trace.outputs}
    # What autocast and autograd do is among the operations already.
    with torch.no_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        for number, (function, args, kwargs, results, is_tuple) in enumerate(trace.operations):
            named = {name: _with_tensors(value, values) for name, value in kwargs.items()}
            found = function(*(_with_tensors(value, values) for value in args), **named)
            for ref, tensor in zip(results, found if is_tuple else (found,), strict=True):
                if ref is not None:
                    values.setdefault(ref, tensor)
            for ref in uses[number]:
                if last[ref] == number and ref not in kept:
                    values.pop(ref, None)
    return [values[ref] for ref in trace.outputs]


def _with_tensors(value: Any, tensors: dict[Ref, Tensor]) -> Any:
    if isinstance(value, Ref):
        return tensors[value]
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def _refs(value: Any) -> list[Ref]:
    if isinstance(value, Ref):
        return [value]
    return [ref for item in value for ref in _refs(item)] if isinstance(value, list | tuple) else []
