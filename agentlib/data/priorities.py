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
        sums = self.groups.cumsum(0)
        total = sums[-1]
        strata = torch.arange(count, device=sums.device, dtype=sums.dtype)
        mass = (strata + torch.rand(count, device=sums.device, dtype=sums.dtype)) * (total / count)  # (B,)
        group = torch.searchsorted(sums, mass, right=True).clamp(max=len(sums) - 1)
        mass = mass - (sums[group] - self.groups[group])
        block = group * WIDTH + self._search(self.blocks[group], mass)
        rows = self.blocks[group].cumsum(1)
        offset = block - group * WIDTH
        mass = mass - (rows.gather(1, offset[:, None])[:, 0] - self.blocks[group, offset])
        index = block * WIDTH + self._search(self.entries[block].double(), mass)
        return index, self.get(index) / total

    @staticmethod
    def _search(weights: Tensor, mass: Tensor) -> Tensor:
        """In each row of weights `(B, WIDTH)`, the position `(B,)` that holds the mass `(B,)`."""
        sums = weights.cumsum(1)
        position = (sums <= mass[:, None]).sum(1)
        # Rounding may lead past the end: the last position with any weight is meant, never an empty one.
        last = (weights > 0).to(torch.int64).cumsum(1).argmax(1)
        return torch.minimum(position, last)
