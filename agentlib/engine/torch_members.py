"""Private parts of torch.vmap: an axis of members that can be put on tensors and taken off inside what is mapped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.vmap import lazy_load_decompositions  # type: ignore[attr-defined]

from agentlib.core.trees import mapped

functorch: Any = torch._C._functorch


class Members:
    """Inside, tensors with an axis of n members in front count as those of one member: what torch.vmap does.

    Random numbers are each member's own.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Members:
        lazy_load_decompositions()
        self.level = functorch._vmap_increment_nesting(self.size, "different")
        return self

    def __exit__(self, *_: object) -> None:
        functorch._vmap_decrement_nesting()

    def one(self, tensor: Tensor) -> Tensor:
        """One member's part of a tensor `(n, ...)`."""
        found: Tensor = functorch._add_batch_dim(tensor, 0, self.level)
        return found

    def inside(self, tree: Any) -> Any:
        """A tree of tensors `(n, ...)` as that of one member; 0-dim tensors, such as a clock's, are common to all."""
        return mapped(tree, lambda tensor: self.one(tensor) if tensor.dim() else tensor)

    def outside(self, tree: Any) -> Any:
        """A tree of one member's tensors as tensors `(n, ...)`; 0-dim ones that are common to all stay so."""

        def whole(tensor: Tensor) -> Tensor:
            found, axis = functorch._unwrap_batched(tensor, self.level)
            if axis is None:
                return tensor.expand(self.size, *tensor.shape) if tensor.dim() else tensor
            return found.movedim(axis, 0)  # type: ignore[no-any-return]

        return mapped(tree, whole)
