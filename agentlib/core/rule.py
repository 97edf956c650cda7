"""What an optimizer's rule is: how a gradient becomes a change of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from agentlib.core.schedules import Schedule

Rate = float | Tensor
"""A learning rate; a 0-dim tensor if it follows a schedule."""
Numbers = Callable[[dict[str, Tensor], Rate], tuple[Rate, ...]]
"""(scalars, learning rate) -> what one step uses for all parameters. The scalars are updated in place."""
Change = Callable[..., Any]
"""(gradient (N,), slots (N,) by name, *numbers) -> change (N,), element by element. The slots are updated in place.

Of a rule that is not elementwise: (gradients, slots by name, parameters, *numbers) -> changes, each a list with one
tensor per parameter, in its own shape.
"""


@dataclass(frozen=True)
class Rule:
    """How a gradient becomes a change of the parameters."""

    learning_rate: Schedule
    """A number or a schedule."""
    slots: tuple[str, ...]
    """Names of the vectors that the rule remembers from step to step."""
    change: Change
    """The rule itself. The change is proportional to the learning rate, so that modules can have rates of their own."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """Names and first values of the 0-dim float64 numbers that the rule remembers."""
    numbers: Numbers = lambda scalars, rate: (rate,)
    """What is the same for all parameters, taken once in a step; the learning rate by default."""
    weight_decay: float = 0.0
    """Strength of the decay of matrices and filters; biases and gains (one dimension) are left alone."""
    decoupled: bool = False
    """True: parameters shrink by `learning_rate * weight_decay` (AdamW). False: the gradient gets an L2 term."""
    elementwise: bool = True
    """Whether each number changes by its own gradient alone: such rules see parameters joined to vectors."""


def once(tensor: Tensor) -> Tensor:
    """A contiguous tensor that a compiler computes before it is used, and not again wherever it is read."""
    return tensor.as_strided(tensor.shape, tensor.stride())
