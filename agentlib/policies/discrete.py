"""Distributions over one choice, several independent choices, and switches.

    log p(a) = sum_i log softmax(z_i)[a_i]

Outputs are logits z, unnormalized log probabilities; a logit of -inf rules an option out. A switch is a choice with
the logits (0, z). Actions are indices from 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone
from agentlib.metrics.detection import entropy_of_logits
from agentlib.metrics.targets import labels_for
from agentlib.policies.base import StochasticPolicy


def sample_logits(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """An index `(...)` drawn from softmax of logits `(..., n)`, by the Gumbel-max trick (Gumbel 1954)."""
    # Fixed shapes and no inspection of values, unlike torch.multinomial; the smallest uniform number is no zero.
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
    uniform = uniform.clamp_min(torch.finfo(logits.dtype).tiny)
    return (logits - torch.log(-torch.log(uniform))).argmax(-1)


class DiscretePolicy(StochasticPolicy):
    """One or several independent choices; the kinds differ in how logits and actions are laid out.

    Args:
        backbone: any network with a `feature_dim`.
        sizes: number of options of each choice.
        width: of the output.
        shape: of one action.
    """

    def __init__(
        self, backbone: Backbone | nn.Module, sizes: Sequence[int], width: int, shape: tuple[int, ...]
    ) -> None:
        super().__init__(backbone)
        self.sizes, self.shape = [int(size) for size in sizes], shape
        self.head = nn.Linear(self.feature_dim, width)

    @abstractmethod
    def by_choice(self, output: Tensor) -> Tensor:
        """The logits of each choice, `(..., k, largest)`; -inf where a choice has fewer options."""

    def joined(self, options: Tensor) -> Tensor:
        """The action for the option `(..., k)` of each choice."""
        return options.reshape(*options.shape[:-1], *self.shape)

    def split(self, action: Tensor) -> Tensor:
        """The inverse of `joined`."""
        return action.flatten(-len(self.shape)) if self.shape else action.unsqueeze(-1)

    @abstractmethod
    def probabilities(self, output: Tensor) -> Tensor:
        """The probabilities of the options, in the shape that suits the kind."""

    @property
    def branches(self) -> list[int]:
        """The number of options of each choice, as masks of legal actions have it."""
        return self.sizes

    def masked(self, output: Tensor, mask: Tensor | None) -> Tensor:
        """The output with what is illegal ruled out.

        Args:
            output: `(..., A)`, for one choice, or for several side by side.
            mask: `(..., A)` bool, true where an option is legal; at least one must be, in each choice. None: all are.
        """
        return output if mask is None else output.masked_fill(~mask, -torch.inf)

    def choose(self, output: Tensor, mask: Tensor | None = None) -> Tensor:
        """The likeliest actions, among the legal ones if a mask is given; the first of equal ones."""
        return self.joined(self.by_choice(self.masked(output, mask)).argmax(-1))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.joined(sample_logits(self.by_choice(output), generator))

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        action = labels_for((*output.shape[:-1], *self.shape), action)
        index = self.split(action).unsqueeze(-1)  # (..., k, 1)
        return self.by_choice(output).log_softmax(-1).gather(-1, index).squeeze(-1).sum(-1)

    def entropy(self, output: Tensor) -> Tensor:
        return entropy_of_logits(self.by_choice(output)).sum(-1)


class CategoricalPolicy(DiscretePolicy):
    """One choice among n: Discrete action spaces. Outputs are logits `(..., n_actions)`, actions `(...)`.

    Args:
        backbone: any network with a `feature_dim`.
        n_actions: number of options.
    """

    kind = "categorical"

    takes_masks = True

    def __init__(self, backbone: Backbone | nn.Module, n_actions: int) -> None:
        super().__init__(backbone, [n_actions], int(n_actions), ())
        self.n_actions = int(n_actions)

    def by_choice(self, output: Tensor) -> Tensor:
        return output.unsqueeze(-2)

    def probabilities(self, output: Tensor) -> Tensor:
        """The probability of each action, `(..., n_actions)`."""
        return output.softmax(-1)


class RotationPolicy(CategoricalPolicy):
    """A classifier of images that also tells by which quarter an image was turned (TTT; Sun et al. 2020).

    Args:
        backbone: any network with a `feature_dim`.
        n_actions: number of classes.
    """

    kind = "rotation"

    def __init__(self, backbone: Backbone | nn.Module, n_actions: int) -> None:
        super().__init__(backbone, n_actions)
        self.turns = nn.Linear(self.feature_dim, 4)


class MultiCategoricalPolicy(DiscretePolicy):
    """Several independent choices: MultiDiscrete action spaces.

    Outputs are the logits of all choices side by side, `(..., sum(nvec))`; actions have the shape `(..., *nvec.shape)`.

    Args:
        backbone: any network with a `feature_dim`.
        nvec: number of options of each choice; nested lists for choices in several dimensions.
    """

    kind = "multi_categorical"

    takes_masks = True

    columns: Tensor

    def __init__(self, backbone: Backbone | nn.Module, nvec: Sequence[Any] | np.ndarray[Any, Any]) -> None:
        grid = np.asarray(nvec, dtype=np.int64)
        sizes = grid.ravel()
        super().__init__(backbone, sizes.tolist(), int(sizes.sum()), grid.shape)
        self.nvec = grid
        # Where each option of each choice (k, largest) lies among the logits; one past the end where there is none.
        width = torch.tensor(sizes)[:, None]  # by torch, which takes no memory for it on the device "meta"
        option, start = torch.arange(int(sizes.max())), width.cumsum(0) - width
        columns = torch.where(option < width, start + option, int(sizes.sum()))
        self.register_buffer("columns", columns, persistent=False)

    def by_choice(self, output: Tensor) -> Tensor:
        return functional.pad(output, (0, 1), value=-torch.inf)[..., self.columns]

    def probabilities(self, output: Tensor) -> Tensor:
        """The probability of each option of each choice, `(..., k, largest)`; 0 where a choice has fewer options."""
        return self.by_choice(output).softmax(-1)


class BernoulliPolicy(DiscretePolicy):
    """Independent switches: MultiBinary action spaces. Outputs are logits `(..., k)`, actions 0 or 1, `(..., *shape)`.

    Args:
        backbone: any network with a `feature_dim`.
        n: number of switches, or their shape, as `MultiBinary` has it.
    """

    kind = "bernoulli"

    def __init__(self, backbone: Backbone | nn.Module, n: int | Sequence[int]) -> None:
        shape = (n,) if isinstance(n, int) else tuple(int(side) for side in n)
        super().__init__(backbone, [2] * int(np.prod(shape)), int(np.prod(shape)), shape)
        self.n = shape

    def by_choice(self, output: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(output), output], dim=-1)

    def probabilities(self, output: Tensor) -> Tensor:
        """The probability that each switch is on, `(..., *shape)`."""
        return self.joined(output.sigmoid())
