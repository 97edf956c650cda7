"""Sequences as examples, for networks with memory: what counts stands anywhere in them, and its order matters.

The same arguments give the same data: each function draws from a generator of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from agentlib.core.numbers import whole
from agentlib.data.datasets import Dataset


def _two_places(n: int, steps: int, generator: torch.Generator) -> Tensor:
    """Two different places `(n, 2)` in each of n sequences, in no order."""
    whole("n", n, 1)
    whole("steps", steps, 2)
    return torch.rand(n, steps, generator=generator, dtype=torch.float32).argsort(1)[:, :2]


def which_first(n: int = 2_000, seed: int = 0, steps: int = 20) -> Dataset:
    """Letters, one a and one b among c and d, as indicators `(N, 20, 4)`; the label is which came first."""
    generator = torch.Generator().manual_seed(whole("seed", seed))
    letters = torch.randint(2, 4, (n, steps), generator=generator)
    places = _two_places(n, steps, generator)
    letters.scatter_(1, places, torch.tensor([[0, 1]]).expand(n, 2))
    return Dataset(one_hot(letters, 4).float(), (places[:, 0] > places[:, 1]).long(), ("a first", "b first"))


def adding(n: int = 10_000, seed: int = 0, steps: int = 50) -> Dataset:
    """The adding problem (Hochreiter & Schmidhuber 1997): numbers and marks `(N, 50, 2)`; the sum of the two marked."""
    generator = torch.Generator().manual_seed(whole("seed", seed))
    numbers = torch.rand(n, steps, generator=generator, dtype=torch.float32)
    marks = torch.zeros_like(numbers).scatter_(1, _two_places(n, steps, generator), 1.0)
    return Dataset(torch.stack([numbers, marks], -1), (numbers * marks).sum(1))
