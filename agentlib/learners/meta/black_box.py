"""A network with memory that learns to learn: it reads the examples of a task and then knows it (Santoro et al. 2016).

    (yhat_t, h_t) = f(x_t, y_{t-1}, h_{t-1}),       L = mean over tasks and t of loss(yhat_t, y_t)

An LSTM or a transformer gets each example's target one step late (PMLR 48:1842; SNAIL, Mishra et al. 2018,
arXiv:1707.03141): to predict y_t it has to have kept the pairs before, so that its state is all that it learns of a new
task, without gradients. The memory is a backbone as those of agents with memory, and the target of the example before
is its "last action": what an agent remembers of its steps, it remembers here of examples.

The examples of a task come in a random order, other than in episodes, where classes go round and the next label could
be told without looking. A memory without an external store, other than Santoro et al.'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import AfterAction
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Rate
from agentlib.core.trees import mapped
from agentlib.data.episodes import Pairs, Tasks
from agentlib.families.tasks import FewShot, TaskFacts, on_tasks
from agentlib.policies import CategoricalPolicy, Predictor

CHUNK = 50
"""Tasks for which predictions are made at once; each query has a memory of its own."""


def one_step_late(y: Tensor) -> Tensor:
    """The target before each, `(tasks, T, ...)`; before the first there is none: label -1, or zeros."""
    none = torch.zeros_like(y[:, :1]) if y.is_floating_point() else torch.full_like(y[:, :1], -1)
    return torch.cat([none, y[:, :-1]], 1)


@dataclass(frozen=True, kw_only=True)
class BlackBoxConfig(FewShot):
    """The numbers of a run of a network that learns to learn by its memory."""

    learning_rate: Rate = Cosine(2e-3)
    """Learning rate of Adam: a number or a schedule."""
    batch_size: Count = 50
    """Tasks per update."""
    shots: Count = 10
    """Examples per task, or per class of a task, to learn it from."""
    queries: Count = 10
    """Other examples per task, or per class of a task, to predict."""


class BlackBox(Learner):
    """Learning to learn by memory; `network` is a policy on a backbone with memory that reads the last target."""

    remembers, axis = True, "examples seen"

    def __init__(self, network: nn.Module, optimizer: Optimizer, config: BlackBoxConfig = BlackBoxConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: BlackBoxConfig, facts: TaskFacts) -> Self:
        """A head on a backbone with memory.

        Raises:
            ValueError: the backbone has no memory that reads the last target.
        """
        if getattr(backbone, "previous_action", None) is None:
            raise ValueError(
                "black_box needs a network with memory that reads the target before: give backbone='lstm', 'gru' or "
                "'transformer', or a WithMemory with previous_action"
            )
        network = CategoricalPolicy(backbone, facts.ways) if facts.ways else Predictor(backbone, facts.outputs)
        return cls(network, config.optimizer(), config)

    def update(self, batch: Tasks) -> Update:
        """One step on the loss of all examples, each after those before; `per_sample` holds that of each task."""
        x, y = (torch.cat(parts, 1) for parts in zip(batch.support, batch.query, strict=True))  # (tasks, T, ...)
        order = torch.rand(y.shape[:2], dtype=torch.float32, device=y.device).argsort(1)
        rows = torch.arange(len(y), device=y.device)[:, None]
        x, y = x[rows, order], targets_of(y[rows, order])
        output, _ = self.network(AfterAction(x, one_step_late(y)))  # (tasks, T, k)
        if y.is_floating_point():
            losses = (output - y).square().mean(2)
        else:
            losses = functional.cross_entropy(output.mT, y, reduction="none")
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        ends = losses.detach()
        metrics = {"loss": loss.detach(), "first_loss": ends[:, 0].mean(), "last_loss": ends[:, -1].mean()}
        return Update(metrics | {"grad_norm": norm}, per_sample=ends.mean(1))

    @torch.no_grad()
    def predictions(self, batch: Tasks, steps: int) -> Tensor:
        """The outputs for each task's query after the first 0, 1, ... `steps` examples: `(steps + 1, tasks, m, k)`."""
        parts = zip(*[part.split(CHUNK) for part in (*batch.support, *batch.query)], strict=True)
        return torch.cat([self._predicted(Pairs(x, y), query, steps) for x, y, query, _ in parts], 1)

    def _predicted(self, support: Pairs, query: Tensor, steps: int) -> Tensor:
        tasks, m = query.shape[:2]
        targets, outputs = targets_of(support.y), list[Tensor]()
        late = one_step_late(torch.cat([targets, targets[:, :1]], 1))  # (tasks, n + 1, ...)
        for count in range(min(steps, targets.shape[1]) + 1):
            state = self.network.initial_state(tasks)  # type: ignore[operator]
            if count:
                _, state = self.network(AfterAction(support.x[:, :count], late[:, :count]), state)
            each = mapped(state, lambda part: part.repeat_interleave(m, 0))
            last = late[:, count, None].repeat_interleave(m, 0)  # (tasks * m, 1, ...)
            output, _ = self.network(AfterAction(query.flatten(0, 1)[:, None], last), each)
            outputs.append(output[:, 0].unflatten(0, (tasks, m)))
        return torch.stack(outputs + outputs[-1:] * (steps + 1 - len(outputs)))

    def predict(self, x: Tasks) -> Tensor:
        """The outputs `(tasks, m, k)` for each task's query after its whole support."""
        return self.predictions(x, x.support.x.shape[1])[-1]

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: sinusoids, a layer of 16 under an LSTM of 16."""
        config = BlackBoxConfig(learning_rate=5e-3, batch_size=8, shots=4, queries=4, net_arch=(16, 16))
        return RECIPE.tiny(cls, config, seed, data="sinusoids")


def targets_of(y: Tensor) -> Tensor:
    """Labels `(tasks, T)` as they are, and numbers as `(tasks, T, k)`."""
    return y.flatten(2) if y.is_floating_point() and y.dim() > 2 else y[..., None] if y.is_floating_point() else y


SUMMARY = "a network with memory that learns to learn (Santoro et al. 2016), regression and classification"
GLYPHS = {"shots": 1, "queries": 5, "batch_size": 16}
RECIPE = Recipe(
    "black_box",
    BlackBox,
    BlackBoxConfig,
    on_tasks,
    SUMMARY,
    steps=5_000,
    presets={"sinusoids": {"net_arch": (64, 128)}, "digits": {"held_out": 0.5} | GLYPHS, "glyphs": GLYPHS},
)
