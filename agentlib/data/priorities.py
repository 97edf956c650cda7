"""Proportional priorities over many entries, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 128
"""Entries per block, and blocks per group: a draw looks at one row of each level."""


class Priorities(nn.Module):
    """Draws entries with probability proportional to their priority (Schaul et al. 2016, section 3.3).

    A tree with wide nodes: entries, the sums of their blocks, and the sums of the blocks' groups. A draw is one search
    at each level, done for the whole batch at once; a change recomputes the sums above it, so that nothing drifts.

    Args:
        size: number of entries; all priorities start at 0, and such an entry is never drawn.
    """

    entries: Tensor
    blocks: Tensor
    groups: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        n_blocks = -(-size // WIDTH)
        n_groups = -(-n_blocks // WIDTH)
        self.register_buffer("entries", torch.zeros(n_groups * WIDTH, WIDTH))
        self.register_buffer("blocks", torch.zeros(n_groups, WIDTH, dtype=torch.float64))
        self.register_buffer("groups", torch.zeros(n_groups, dtype=torch.float64))

    def set(self, index: Tensor, priority: Tensor) -> None:
        """Gives entries `index (B,)` the priorities `(B,)`; an entry named twice must have the same one twice."""
        block = torch.div(index, WIDTH, rounding_mode="floor")
        group = torch.div(block, WIDTH, rounding_mode="floor")
        self.entries[block, index - block * WIDTH] = priority.to(self.entries.dtype)
        self.blocks[group, block - group * WIDTH] = self.entries[block].sum(1, dtype=torch.float64)
        self.groups[group] = self.blocks[group].sum(1)

    def get(self, index: Tensor) -> Tensor:
        """The priorities `(B,)` of entries `index (B,)`."""
        block = torch.div(index, WIDTH, rounding_mode="floor")
        return self.entries[block, index - block * WIDTH]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """One entry from each of `count` equal strata of the total mass: indices and probabilities `(count,)`."""
        total = self.groups.sum()
        strata = torch.arange(count, device=total.device, dtype=total.dtype)
        mass = (strata + torch.rand(count, device=total.device, dtype=total.dtype)) * (total / count)  # (B,)
        group, mass = self._search(self.groups[None], mass)
        block, mass = self._search(self.blocks[group], mass)
        block = group * WIDTH + block
        entry, _ = self._search(self.entries[block].double(), mass)
        index = block * WIDTH + entry
        return index, self.get(index) / total

    @staticmethod
    def _search(weights: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """In each row of weights `(B or 1, n)`, the position `(B,)` that holds the mass `(B,)`, and how far in."""
        sums = weights.cumsum(1)
        position = (sums <= mass[:, None]).sum(1)
        # Rounding may lead past the end: the last position with any weight is meant, never an empty one.
        last = (weights > 0).to(torch.int64).cumsum(1).argmax(1)
        position = torch.minimum(position, last)
        before = sums.expand(len(mass), -1).gather(1, (position - 1).clamp(min=0)[:, None])[:, 0]
        return position, mass - before * (position > 0)
