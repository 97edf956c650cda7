"""Examples as bits: by a threshold, or drawn each time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from agentlib.backbones import Optimized
from agentlib.data import Dataset
from agentlib.data.batches import Transform


@dataclass(frozen=True, kw_only=True)
class Bits(Optimized):
    """The common fields of the configs of models that may be of bits."""

    threshold: float | None = None
    """Turn numbers from this threshold on into ones, and all others into zeros; None keeps the numbers."""
    drawn_bits: bool = False
    """Take numbers as probabilities of ones: draw bits each time in training, and once for held-out examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drawn_bits and (self.threshold is not None or getattr(self, "likelihood", "") != "bernoulli"):
            name = type(self).__name__
            raise ValueError(f'{name}.drawn_bits goes with likelihood="bernoulli", and without a threshold')

    @property
    def transform(self) -> Transform | None:
        """The random change of an example each time that it is seen."""
        return torch.bernoulli if self.drawn_bits else None

    def bits(self, data: Dataset, other: str) -> Dataset:
        """The examples after the threshold.

        Raises:
            ValueError: the Bernoulli likelihood, and numbers other than 0 and 1, for which there is the `other`
                likelihood; or no probabilities to draw bits by.
        """
        if self.drawn_bits:
            if bool(((data.x < 0.0) | (data.x > 1.0)).any()):
                raise ValueError("drawn_bits takes numbers as probabilities, and the data has some outside 0 to 1")
            return data
        x = data.x if self.threshold is None else (data.x >= self.threshold).float()
        odd = (x != 0.0) & (x != 1.0)
        if getattr(self, "likelihood", "") == "bernoulli" and bool(odd.any()):
            raise ValueError(
                f"the Bernoulli likelihood is one of zeros and ones, and the data has {float(x[odd][0]):.3g}: give "
                f'threshold=0.5 or drawn_bits=True to make bits of grey values, or likelihood="{other}"'
            )
        return replace(data, x=x)
