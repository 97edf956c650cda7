"""Several policies that decide together (Hansen & Salamon 1990; Lakshminarayanan et al. 2017).

    p(a) = 1/K sum_k p_k(a)                        probabilities are averaged, not logits
    disagreement = (H(p) - 1/K sum_k H(p_k)) / log min(K, n)        mutual information of action and member

By Jensen's inequality -log p(a) is at most the members' average of -log p_k(a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Described, Observation, Spec, described, spec_of
from agentlib.metrics.detection import entropy_of_probabilities, mutual_information
from agentlib.policies.base import StochasticPolicy, state_after
from agentlib.policies.continuous import DeterministicPolicy, GaussianPolicy
from agentlib.policies.discrete import DiscretePolicy
from agentlib.policies.predictor import Predictor
from agentlib.policies.q_policy import QPolicy

Vote = Literal["mean", "majority"]


class EnsemblePolicy(Described):
    """Policies of one kind, for one action space, that decide together.

    Outputs are the members' outputs (action values of a Q-policy), stacked before the last axis: `(..., K, n)`.

    Args:
        policies: the members; their backbones may differ.
        vote: "mean" chooses by averaged probabilities (action values and real-valued actions are averaged);
            "majority" chooses the option of most members, and of several such the likeliest.

    Raises:
        ValueError: no members, members of different kinds or action spaces, a kind that has no average, or a majority
            of real numbers.
    """

    kind = "ensemble"

    def __init__(self, policies: Sequence[nn.Module], vote: Vote = "mean") -> None:
        super().__init__()
        if not policies:
            raise ValueError("an ensemble needs at least one policy")
        if vote not in ("mean", "majority"):
            raise ValueError(f"vote is 'mean' or 'majority', not {vote!r}")
        described = [f"{type(policy).__name__} for {_actions_of(policy)}" for policy in policies]
        if len(set(described)) > 1:
            raise ValueError(f"an ensemble is of one kind and for one action space, not {', '.join(described)}")
        if len({bool(getattr(policy, "is_sequence", False)) for policy in policies}) > 1:
            raise ValueError("the policies of an ensemble all have memory, or none of them")
        self.members, self.vote = nn.ModuleList(policies), vote
        self.is_sequence = bool(getattr(policies[0], "is_sequence", False))
        self.is_stochastic = isinstance(policies[0], StochasticPolicy)
        self.takes_masks = self.gives_values = isinstance(policies[0], QPolicy)
        self.is_real = isinstance(policies[0], GaussianPolicy | DeterministicPolicy | Predictor)
        self.branches = [] if self.is_real else _sizes(policies[0])
        """Number of options of each choice; empty for real numbers."""
        if vote == "majority" and self.is_real:
            raise ValueError("real numbers have no majority: use vote='mean'")

    @property
    def spec(self) -> Spec:
        return described(self, policies=[spec_of(member) for member in self.members])

    def forward(
        self, observation: Observation, state: Any = None, episode_start: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """The members' outputs `(..., K, n)` for a batch of observations, and the next state (a tuple with memory)."""
        states = [None] * len(self.members) if state is None or not self.is_sequence else state
        results = [member(observation, own, episode_start) for member, own in zip(self.members, states, strict=True)]
        next_state = tuple(own for _, own in results) if self.is_sequence else state
        outputs = [output for output, _ in results]
        if self.takes_masks:
            outputs = [member.values(output) for member, output in zip(self.members, outputs, strict=True)]  # type: ignore[operator]
        return torch.stack(outputs, dim=-2), next_state

    def initial_state(self, batch_size: int) -> Any:
        """The memory of each member at the start of `batch_size` episodes; None without memory."""
        return tuple(member.initial_state(batch_size) for member in self.members) if self.is_sequence else None  # type: ignore[operator]

    def acted(self, state: Any, action: Tensor) -> Any:
        """The memory of each member after these actions."""
        if not self.is_sequence:
            return state
        return tuple(state_after(member, own, action) for member, own in zip(self.members, state, strict=True))

    @torch.no_grad()
    def observe(self, observation: Observation) -> None:
        """Takes a batch of observations into the running statistics of each member, if it keeps any."""
        for member in self.members:
            member.observe(observation)  # type: ignore[operator]

    def choose(self, output: Tensor, mask: Tensor | None = None) -> Tensor:
        """The action that they decide on.

        Args:
            output: `(..., K, n)`.
            mask: `(..., n)` bool, true where an action is legal; for action values.
        """
        if self.is_real:
            return torch.stack(self._each_part("choose", output)).mean(0)
        scores = self._scores(output, mask)  # (K, ..., k, n)
        mean = scores.mean(0)
        if self.vote == "majority":
            votes = _greedy(scores).sum(0)  # (..., k, n)
            mean = mean.masked_fill(votes < votes.amax(-1, keepdim=True), -torch.inf)
        return self._joined(mean.argmax(-1))

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An action from the average distribution: one that a random member draws, for each output."""
        samples = torch.stack(self._each_part("sample", output, generator))  # (K, ..., *shape)
        shape = output.shape[:-2]
        member = torch.randint(len(self.members), shape, generator=generator, device=output.device)  # (...)
        index = member.reshape(1, *member.shape, *[1] * (samples.dim() - 1 - member.dim()))
        return samples.gather(0, index.expand(1, *samples.shape[1:])).squeeze(0)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Log of the members' average probability (density) of each action, `(...)`."""
        each = torch.stack(self._each_part("log_prob", output, action))
        return each.logsumexp(0) - math.log(len(self.members))

    def probabilities(self, output: Tensor) -> Tensor:
        """The members' probabilities, averaged, in the shape that the members give them."""
        return torch.stack(self._each_part("probabilities", output)).mean(0)

    def as_logits(self, output: Tensor) -> Tensor:
        """The logs of the averaged probabilities, or averaged action values, for attacks and confidences.

        From logarithms, so that a probability that is too small for a float, such as e^-200, does not become 0.

        Raises:
            TypeError: several components of action values, which have no single score for each option.
        """
        if self.gives_values:
            if len(self.branches) > 1:
                raise TypeError("an action of several components has no single score for each option")
            return output.mean(-2)
        each = torch.stack([part.log_softmax(-1) for part in self._each_part("by_choice", output)])  # (K, ..., k, n)
        return (each.logsumexp(0) - math.log(len(self.members))).squeeze(-2)

    def entropy(self, output: Tensor) -> Tensor:
        """Entropy `(...)` in nats of the averaged probabilities; the sum over several choices or switches.

        Raises:
            TypeError: no probabilities; a mixture of normal distributions has no entropy in closed form.
        """
        if not isinstance(self.members[0], DiscretePolicy):
            raise TypeError(f"an ensemble of {type(self.members[0]).__name__} has no entropy in closed form")
        return entropy_of_probabilities(self._scores(output).mean(0)).sum(-1)

    def disagreement(self, output: Tensor) -> Tensor:
        """How far the members are apart, `(...)`, from 0 where they agree to 1.

        - With probabilities: the mutual information of the action and the member that chose it, as a share of log
          min(K, n), the most that it can be; the mean over several choices or switches.
        - Action values: the same for the greedy choices, which makes it the entropy of the votes.
        - Real numbers: the standard deviation d of the members' choices as a share of half the range, the most that
          it can be; where there are no bounds, d / (d + s) with the members' average standard deviation s
          (deterministic ones: s = 1; of predictions: the members' average `scale`). The mean over the numbers.
        """
        if self.is_real:
            return self._spread(output)
        scores = self._scores(output)  # (K, ..., k, n)
        if isinstance(self.members[0], QPolicy):
            scores = _greedy(scores).to(scores.dtype)
        information = mutual_information(scores)  # (..., k)
        most = [math.log(min(len(self.members), size)) or 1.0 for size in self.branches]
        share = information / torch.tensor(most, dtype=information.dtype, device=information.device)
        return share.clamp(0.0, 1.0).mean(-1)  # rounding may leave a hair below 0

    def _spread(self, output: Tensor) -> Tensor:
        first: Any = self.members[0]
        choices = torch.stack(self._each_part("choose", output))  # (K, ..., *shape)
        if isinstance(first, Predictor):
            deviation = choices.std(0, correction=0)
            scale = torch.stack([member.scale for member in self.members]).mean(0)  # type: ignore[misc]
            return (deviation / (deviation + scale)).mean(-1)
        bounds = first.bounds
        deviation = bounds.flat(choices).std(0, correction=0)  # (..., d)
        usual = torch.ones_like(deviation)
        if isinstance(first, GaussianPolicy):
            usual = first.mean_and_log_std(output)[1].exp().mean(-2)
        share = torch.where(bounds.bounded, deviation / bounds.half_range, deviation / (deviation + usual))
        return share.clamp(0.0, 1.0).mean(-1)

    def _scores(self, output: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities of the options of each choice, or action values of each branch, `(K, ..., k, n)`."""
        parts = zip(self.members, output.unbind(-2), strict=True)
        return torch.stack([_scores_by_choice(member, part, mask) for member, part in parts])

    def _joined(self, options: Tensor) -> Tensor:
        first = self.members[0]
        if isinstance(first, DiscretePolicy):
            return first.joined(options)
        assert isinstance(first, QPolicy)
        return options if first.is_branched else options.squeeze(-1)

    def _each_part(self, method: str, output: Tensor, *arguments: Any) -> list[Any]:
        """A method of each member, given its own part of the output."""
        for member in self.members:
            if not hasattr(member, method):
                raise TypeError(f"{type(member).__name__} has no {method}: it gives no distribution over actions")
        parts = zip(self.members, output.unbind(-2), strict=True)
        return [getattr(member, method)(part, *arguments) for member, part in parts]


def _greedy(scores: Tensor) -> Tensor:
    """1 at the largest score `(..., n)`, the first of equal ones, else 0."""
    return functional.one_hot(scores.argmax(-1), scores.shape[-1])


def _sizes(policy: nn.Module) -> list[int]:
    """Number of options of each choice."""
    if isinstance(policy, DiscretePolicy):
        return policy.sizes
    assert isinstance(policy, QPolicy)
    return policy.branches


def _scores_by_choice(policy: nn.Module, output: Tensor, mask: Tensor | None) -> Tensor:
    if isinstance(policy, DiscretePolicy):
        return policy.by_choice(output).softmax(-1)
    sizes = _sizes(policy)
    values = output if mask is None else output.masked_fill(~mask, -torch.inf)
    branches = values.split(sizes, -1)
    padded = [functional.pad(branch, (0, max(sizes) - branch.shape[-1]), value=-torch.inf) for branch in branches]
    return torch.stack(padded, -2)


def _actions_of(policy: nn.Module) -> str:
    """The action space of a policy, in words that tell different ones of its kind apart."""
    if isinstance(policy, GaussianPolicy | DeterministicPolicy):
        return str(policy.bounds.space)
    if isinstance(policy, Predictor):
        return f"{policy.outputs} numbers"
    if isinstance(policy, DiscretePolicy | QPolicy):
        return f"{_sizes(policy)} actions"
    raise ValueError(f"an ensemble averages actions, action values or predictions; {type(policy).__name__} has none")
