"""Learning one task after the other without losing the first: replay of old examples, and elastic weights (EWC).

    L = 1/B sum_i -log p(y_i | x_i) + ewc / 2 sum_t sum_j F_tj (theta_j - theta_tj)^2
    F_tj = E_x sum_k p(k | x) (d log p(k | x) / d theta_j)^2          over task t, at the weights theta_t of its end

Elastic weights (Kirkpatrick et al. 2017, doi:10.1073/pnas.1611835114) hold those back that the tasks so far depend on,
by the diagonal of the Fisher information; the expectation over labels is exact here, where others draw one. All
penalties together are one parabola in theta, so that three sums are kept, however many the tasks. With `memory` a part
of each earlier task is replayed (Robins 1995), which the source does. With neither it is fine-tuning, the floor.

Penalties help where tasks have inputs of their own ("permuted"). Where they have classes of their own ("split"), and
the model is not told the task, nothing but old examples keeps the outputs of old classes in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative
from agentlib.core.schedules import Clock
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.streams import Streamed, StreamFacts, on_streams
from agentlib.policies import CategoricalPolicy
from agentlib.policies.base import is_policy, require_no_memory

CHUNK = 8
"""Examples whose derivatives are in memory at once, for all classes and all parameters."""


def fisher_diagonal(policy: nn.Module, x: Tensor) -> Tensor:
    """The diagonal `(P,)` of the Fisher information of the trainable parameters, over examples `(N, ...)`."""
    weights = {name: value.detach() for name, value in policy.named_parameters() if value.requires_grad}

    def log_shares(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        logits: Tensor = functional_call(policy, parameters, (one[None],))[0][0]
        return logits.log_softmax(-1)  # (K,)

    def of_example(one: Tensor) -> Tensor:
        slopes = torch.cat([slope.flatten(1) for slope in jacrev(log_shares)(weights, one).values()], 1)  # (K, P)
        return log_shares(weights, one).exp() @ slopes.square()

    found: Tensor = vmap(of_example, chunk_size=CHUNK, randomness="different")(x)
    return found.mean(0)


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(Streamed):
    """The numbers of a run over a stream of tasks."""

    ewc: NonNegative = 0.0
    """Strength with which weights are held that earlier tasks depend on, such as 300; 0 disables it."""
    fisher_examples: Count = 200
    """Examples of each task from which these weights are found."""


class Continual(Learner):
    """Classification of a stream of tasks."""

    seen: Tensor
    precision: Tensor
    pull: Tensor
    constant: Tensor

    def __init__(
        self, policy: CategoricalPolicy, optimizer: Optimizer, config: ContinualConfig, facts: StreamFacts
    ) -> None:
        super().__init__()
        require_no_memory(policy, "continual")
        self.config, self.policy, self.task_updates = config, policy, facts.task_updates
        self.step = Step(policy, optimizer, config.max_grad_norm)
        n = min([config.fisher_examples, *map(len, facts.tasks)])
        self.register_buffer("seen", torch.stack([task.sampled(n).x for task in facts.tasks]), persistent=False)
        size = sum(self.step.sizes)
        for name, shape in (("precision", (size,)), ("pull", (size,)), ("constant", ())):
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def build(cls, backbone: nn.Module, config: ContinualConfig, facts: StreamFacts) -> Self:
        """A classifier on a backbone, or of a policy that is one already."""
        policy: Any = backbone if is_policy(backbone) else CategoricalPolicy(backbone, len(facts.classes))
        return cls(policy, config.optimizer(), config, facts)

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        logits: Tensor = self.policy(x)[0]
        return logits

    def flat(self) -> Tensor:
        """The trainable parameters, `(P,)`."""
        return torch.cat([parameter.reshape(-1) for parameter in self.step.parameter_list])

    def penalty(self) -> Tensor:
        """1/2 sum_t sum_j F_tj (theta_j - theta_tj)^2 over the tasks that are over, 0-dim."""
        theta = self.flat()  # not multiplied by @, which bfloat16 would round
        return 0.5 * (((self.precision * theta - 2.0 * self.pull) * theta).sum() + self.constant)

    def before_update(self, clock: Clock) -> None:
        """At the end of each task but the last, adds what its weights are held by."""
        task, rest = divmod(int(clock.updates), self.task_updates)
        if not self.config.ewc or rest or not 0 < task < len(self.seen):
            return
        with torch.no_grad():
            theta, fisher = self.flat(), fisher_diagonal(self.policy, self.seen[task - 1])
            self.precision += fisher
            self.pull += fisher * theta
            self.constant += fisher @ theta.square()

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the cross-entropies `(B,)`."""
        assert batch.y is not None
        logits = self.predict(batch.x)
        losses = functional.cross_entropy(logits, batch.y, reduction="none")  # (B,)
        loss = losses.mean()
        metrics = {"loss": loss.detach(), "accuracy": (logits.argmax(1) == batch.y).float().mean()}
        if self.config.ewc:
            held = self.config.ewc * self.penalty()
            loss, metrics["penalty"] = loss + held, held.detach()
        norm = self.step(loss, batch.clock)
        return Update(metrics | {"grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four clouds of points in the plane, two at a time."""
        labels = torch.arange(96) % 4
        corners = 2.0 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        points = corners[labels] + torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
        data = Dataset(points, labels, ("right", "up", "left", "down"))
        sizes: Any = {"batch_size": 32, "net_arch": (16,), "tasks": 2, "memory": 4}
        config = ContinualConfig(learning_rate=1e-2, ewc=10.0, fisher_examples=20, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data), steps=8)


SUMMARY = "classification of one task after the other: replay, elastic weights (Kirkpatrick et al. 2017)"
RECIPE = Recipe("continual", Continual, ContinualConfig, on_streams, SUMMARY, steps=2_000)
