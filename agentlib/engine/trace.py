"""What one update does, written down, and with which tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agentlib.core.learner import Update
from agentlib.core.trees import leaves
from agentlib.engine.stand_ins import Read
from agentlib.engine.tape import Operation, Ref


class Place(NamedTuple):
    """Where a module holds a tensor, or a list, tuple or dict of them."""

    held: dict[str, Any]
    name: str
    leaf: int
    """Its number in a tree; 0 of a tensor by itself."""

    def look(self) -> Tensor | None:
        """What is there now."""
        value = self.held.get(self.name)
        if isinstance(value, Tensor):
            return value
        found = leaves(value)
        return found[self.leaf] if self.leaf < len(found) else None


class Trace(NamedTuple):
    """What one update does, and with which tensors."""

    operations: list[Operation]
    inputs: dict[Ref, Tensor]
    places: dict[Ref, Place]
    """Of those inputs that modules hold."""
    update: Update
    """With references in place of tensors."""
    reads: list[Read]
    hooks: list[Any] = []  # noqa: RUF012 - of a tuple
    """The modules' dictionaries of forward hooks, all of them empty."""

    @property
    def outputs(self) -> list[Ref]:
        """The tensors of the update."""
        values: tuple[Any, ...] = (*self.update.metrics.values(), self.update.per_sample)
        return [value for value in values if isinstance(value, Ref)]

    def text(self) -> str:
        """All that the compiled code depends on."""
        signature = [
            f"{ref} = {tensor.dtype}{list(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
            for ref, tensor in self.inputs.items()
        ]
        return "\n".join([*signature, *map(repr, self.operations), repr(self.outputs)])

    def difference(self, other: Trace) -> str | None:
        """What is not the same in another trace, the values of constants included."""
        for here, there in zip(self.text().splitlines(), other.text().splitlines(), strict=False):
            if here != there:
                return f"{here[:200]} is not {there[:200]}"
        return self.outside(other)

    def outside(self, other: Trace) -> str | None:
        """Which tensor that no module holds is not the same in another trace of the same operations."""
        for ref in self.inputs.keys() - self.places.keys():
            theirs = other.inputs.get(ref)
            if theirs is not None and not torch.equal(self.inputs[ref], theirs):
                return f"a tensor of {list(self.inputs[ref].shape)} numbers came from outside of torch"
        return None
