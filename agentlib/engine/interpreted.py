"""A trace as a program of torch's own interpreter: the same numbers as plain PyTorch, bit for bit, without Python.

The interpreter calls the operations that PyTorch itself would call, on the same tensors in the same order. Python,
modules and autograd are left out: of a small network's update they take two thirds of the time. Nothing is built, so a
program is ready at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agentlib.engine.tape import CannotCompile, Ref
from agentlib.engine.torch_private import Script
from agentlib.engine.trace import Trace

MOST_BYTES = 1 << 28
"""An update that makes more new tensors is bound by its products: it is not traced, which would keep them all."""


class Interpreted:
    """A trace as a program of torch's interpreter.

    Raises:
        CannotCompile: the interpreter does not have one of its operations, or lacks a type among its arguments.
    """

    def __init__(self, trace: Trace) -> None:
        script = Script()
        values = {ref: script.input() for ref in trace.inputs}

        def with_values(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return values[argument]
            return [with_values(item) for item in argument] if isinstance(argument, list) else argument

        try:
            for function, args, kwargs, results, _ in trace.operations:
                named = {name: with_values(value) for name, value in kwargs.items()}
                made = script.call(function, with_values(args), named, len(results))
                for ref, value in zip(results, made or [None] * len(results), strict=True):
                    if ref is not None:
                        values.setdefault(ref, value)
            # Copies, since what an update reports must not change with the tensors that it was read from.
            copies = [script.call(torch.ops.aten.clone.default, [values[ref]], {}, 1)[0] for ref in trace.outputs]
            self.function = script.function(copies)
        except Exception as error:  # of torch's own
            raise CannotCompile(f"it cannot be interpreted: {error}") from error
        self.device_type = next(iter(trace.inputs.values())).device.type

    def run(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Does the update on the trace's inputs, and returns its outputs."""
        # What autocast and autograd do is among the operations already.
        if torch.is_autocast_enabled(self.device_type):
            with torch.no_grad(), torch.autocast(self.device_type, enabled=False):
                return self.function(*tensors)
        with torch.no_grad():
            return self.function(*tensors)
