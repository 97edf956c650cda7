"""Proportional priorities over many entries, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BITS = 5
WIDTH = 1 << BITS
"""Numbers per node: a draw looks at one node of each level. Wider nodes are fewer, and longer to look through."""


class Priorities(nn.Module):
    """Draws entries with probability proportional to their priority (Schaul et al. 2016, section 3.3).

    A tree with wide nodes: the entries are `level_0`, the sums of their nodes `level_1`, and so on up to a level of so
    few nodes that it is searched as a whole. A draw is one search at each level, done for the whole batch at once; a
    change recomputes the sums above it, so that nothing drifts.

    Args:
        size: number of entries; all priorities start at 0, and such an entry is never drawn.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.depth, nodes = 0, size
        while self.depth == 0 or nodes > WIDTH:
            nodes = -(-nodes // WIDTH)
            dtype = torch.float64 if self.depth else torch.float32
            self.register_buffer(f"level_{self.depth}", torch.zeros(nodes, WIDTH, dtype=dtype))
            self.depth += 1

    def set(self, index: Tensor, priority: Tensor) -> None:
        """Gives entries `index (B,)` the priorities `(B,)`; an entry named twice must have the same one twice."""
        for level in self._levels():
            node = index >> BITS
            level[node, index & (WIDTH - 1)] = priority.to(level.dtype)
            index, priority = node, level[node].sum(1, dtype=torch.float64)

    def get(self, index: Tensor) -> Tensor:
        """The priorities `(B,)` of entries `index (B,)`."""
        return self._levels()[0].flatten()[index]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """One entry from each of `count` equal strata of the total mass: indices and probabilities `(count,)`."""
        *levels, top = self._levels()
        sums = top.flatten().cumsum(0, dtype=torch.float64)
        total = sums[-1]
        strata = torch.arange(count, device=total.device, dtype=torch.float64)
        mass = (strata + torch.rand(count, device=total.device, dtype=torch.float64)) * (total / count)  # (B,)
        index, mass = _search(sums, mass)
        for level in reversed(levels):
            position, mass = _search(level[index].cumsum(1, dtype=torch.float64), mass)
            index = index * WIDTH + position
        return index, self.get(index) / total

    def _levels(self) -> list[Tensor]:
        return [getattr(self, f"level_{number}") for number in range(self.depth)]


def _search(sums: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """In cumulative sums `(n,)`, or in each row of `(B, n)`, the position `(B,)` of the mass `(B,)`, and how far in."""
    # Rounding may lead past the end. Below the last sum there is always a position, and never one without weight.
    mass = torch.minimum(mass, sums[..., -1] * (1.0 - 2.0**-52))
    position = torch.searchsorted(sums, mass[:, None], right=True)[:, 0]
    before = sums.expand(len(mass), -1).gather(1, (position - 1).clamp(min=0)[:, None])[:, 0]
    return position, mass - before * (position > 0)
