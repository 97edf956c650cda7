"""The source that the tests of compiling share: noise, drawn from torch's default generator."""

from typing import NamedTuple

import torch
from torch import Tensor

from agentlib.core import Clock, Source


class Noise(NamedTuple):
    x: Tensor
    clock: Clock


class Draws(Source):
    def sample(self):
        return Noise(torch.randn(8, 3), self.batch_clock)
