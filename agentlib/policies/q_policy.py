"""Acting by action values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from agentlib.backbones import Backbone
from agentlib.policies.base import Policy
from agentlib.policies.q_heads import QHead
from agentlib.policies.value_losses import LOSSES, c51_projection, cross_entropy, entropy, quantile_huber_loss

Distribution = Literal["c51", "quantile"]


class QPolicy(Policy):
    """Action values over a backbone, and the greedy choice among them.

    Outputs are `(..., A)`, one number for each action. With `distributional` they are `(..., A, n_atoms)`, for each
    action a distribution of returns: logits of atoms that lie evenly from `v_min` to `v_max` ("c51"; Bellemare et al.
    2017), or its quantiles at the midpoints of equal shares ("quantile"; Dabney et al. 2018). `values` turns an output
    into action values.

    MultiDiscrete actions have one branch of values per component, side by side: the output has sum(n_actions) columns,
    and an action is chosen in each branch for itself.

    Args:
        backbone: any network with a `feature_dim`, also one with memory.
        n_actions: number of discrete actions; the numbers of each component for MultiDiscrete ones.
        dueling: a stream for the state's value, and one for the advantages.
        distributional: learn a distribution of returns for each action; None for its mean.
        n_atoms: atoms or quantiles of a distribution.
        v_min: lowest return of "c51".
        v_max: highest return of "c51".
        noisy: the layers of the head are noisy ones.
        noise: initial size of that noise.
        hidden: widths of layers of the head's own, in each of its streams.
    """

    kind = "q"

    takes_masks = True
    gives_values = True
    """Whether outputs are values of actions, whose scale is that of the rewards."""
    support: Tensor
    first_columns: Tensor

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        n_actions: int | Sequence[int],
        *,
        dueling: bool = False,
        distributional: Distribution | None = None,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        noisy: bool = False,
        noise: float = 0.5,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__(backbone)
        self.is_branched = isinstance(n_actions, Sequence)
        self.branches = [int(n) for n in n_actions] if isinstance(n_actions, Sequence) else [int(n_actions)]
        self.n_actions = self.branches if self.is_branched else self.branches[0]
        self.dueling, self.distributional, self.n_atoms = dueling, distributional, int(n_atoms)
        self.v_min, self.v_max, self.hidden = float(v_min), float(v_max), tuple(hidden)
        self.noisy, self.noise = noisy, float(noise)
        self.head: nn.Module
        if not (self.is_branched or dueling or distributional or noisy or hidden):
            self.head = nn.Linear(self.feature_dim, self.branches[0])
        else:
            atoms = None if distributional is None else self.n_atoms
            self.head = QHead(self.feature_dim, self.branches, atoms, self.hidden, dueling, noise if noisy else None)
        if distributional == "c51":
            self.register_buffer("support", torch.linspace(self.v_min, self.v_max, self.n_atoms), persistent=False)
        if self.is_branched:
            starts = torch.tensor([0, *self.branches[:-1]]).cumsum(0)
            self.register_buffer("first_columns", starts, persistent=False)

    def values(self, output: Tensor) -> Tensor:
        """The expected return `(...)` of each action, from outputs `(...)` or `(..., n_atoms)`."""
        if self.distributional is None:
            return output
        return output.mean(-1) if self.distributional == "quantile" else output.softmax(-1) @ self.support

    def as_logits(self, output: Tensor) -> Tensor:
        """The values `(..., A)` as scores of the actions, for attacks and confidences.

        Raises:
            TypeError: several choices at once, which have no single score per option.
        """
        if self.is_branched:
            raise TypeError("an action of several components has no single score for each option")
        return self.values(output)

    def choose(self, output: Tensor, mask: Tensor | None = None) -> Tensor:
        """The greedy actions `(...)`, of several branches `(..., D)`; the first of equal ones.

        Args:
            output: `(..., A)`, or `(..., A, n_atoms)`.
            mask: `(..., A)` bool, true where an action is legal; at least one must be, in each branch.
        """
        values = self.values(output)
        if mask is not None:
            values = values.masked_fill(~mask, -torch.inf)
        if not self.is_branched:
            return values.argmax(-1)
        return torch.stack([branch.argmax(-1) for branch in values.split(self.branches, -1)], -1)

    def pick(self, output: Tensor, action: Tensor) -> Tensor:
        """The outputs `(...)`, or `(..., n_atoms)`, of the actions `(...)`; of several branches, `(..., D)` of both."""
        index, axis = action + self.first_columns if self.is_branched else action[..., None], -1  # (..., D)
        if self.distributional is not None:
            index, axis = index[..., None].expand(*index.shape, self.n_atoms), -2
        picked = output.gather(axis, index)
        return picked if self.is_branched else picked.select(axis, 0)

    def excess(self, output: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """log sum_b exp Q(s, b) - Q(s, a), `(B,)`; of several branches, the mean of theirs.

        Args:
            output: `(B, A)`, or `(B, A, n_atoms)`.
            action: `(B,)`, or `(B, D)`.
            mask: `(B, A)` bool, true where an action is legal: the sum is over these.
        """
        values, chosen = self.values(output), self.values(self.pick(output, action))
        values = values if mask is None else values.masked_fill(~mask, -torch.inf)
        total = torch.stack([branch.logsumexp(-1) for branch in values.split(self.branches, -1)], -1)  # (B, D)
        return (total - (chosen if self.is_branched else chosen[:, None])).mean(-1)

    def backed_up(self, output: Tensor, backup: Callable[[Tensor], Tensor]) -> Tensor:
        """The goals of `losses`: the returns that outputs stand for, moved by `backup`.

        Several branches have one goal in common: the mean of their values, quantiles or probabilities.

        Args:
            output: of the next actions, as `pick` gives it.
            backup: from returns `(B, ...)` to the returns of the steps before, such as the Bellman equation.
        """
        if self.distributional != "c51":
            return backup(output.mean(1, keepdim=True) if self.is_branched else output)
        probability = output.softmax(-1)
        if self.is_branched:
            probability = probability.mean(1, keepdim=True)
        return c51_projection(probability, backup(self.support.expand_as(probability)), self.support)

    def losses(self, output: Tensor, goal: Tensor, loss: str = "huber") -> tuple[Tensor, Tensor]:
        """The loss and the error, for priorities, of each transition `(B,)`; over several branches their means.

        Args:
            output: of the actions that were made, as `pick` gives it.
            goal: as `backed_up` gives it.
            loss: of plain values, one of `LOSSES`. Distributions have their own.
        """
        if self.distributional is None:
            goal = goal.expand_as(output)
            losses, error = LOSSES[loss](output, goal, reduction="none"), output - goal
        elif self.distributional == "quantile":
            losses = error = quantile_huber_loss(output, goal)
        else:
            losses = cross_entropy(output, goal)
            error = losses - entropy(goal)  # a divergence: 0 where the goal is met
        return (losses.mean(1), error.abs().mean(1)) if self.is_branched else (losses, error)
