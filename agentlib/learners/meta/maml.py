"""Model-agnostic meta-learning (MAML; Finn et al. 2017, arXiv:1703.03400).

    theta_i = theta - alpha grad L(theta; support of task i)         `inner_steps` times
    theta  <- theta - beta grad sum_i L(theta_i; query of task i)

The weights are learned from which a few steps of gradient descent on few examples lead to a good network. The outer
gradient goes through the inner steps, whose own derivative is the second one: it is exact here, by `torch.func`. With
`first_order` that derivative is taken to be the identity (section 5.2 of the paper). With `inner_steps=0` nothing is
adapted while training: one network for all tasks, the baseline that the paper calls pretrained.

Adam is the outer rule, as in the authors' code; batch statistics would leak between support and query, so that
networks have LayerNorm or none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from agentlib.backbones import MLP, Schedule, adam
from agentlib.data.episodes import Pairs, Sinusoids, Tasks
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer

CHUNK = 100
"""Tasks that are adapted at once when predictions are asked for; each has weights of its own."""

Parameters = Mapping[str, Tensor]
Loss = Callable[[Parameters, Any], Tensor]
"""(parameters by name, examples of one task) to a 0-dim loss, without side effects."""


def adapted(
    loss: Loss, parameters: Parameters, support: Any, rate: float, steps: int, first_order: bool = False
) -> Parameters:
    """The parameters after so many steps downhill on the support; differentiable, unless `first_order`."""
    for _ in range(steps):
        slopes = grad(loss)(dict(parameters), support)
        if first_order:
            slopes = {name: slope.detach() for name, slope in slopes.items()}
        parameters = {name: value - rate * slopes[name] for name, value in parameters.items()}
    return parameters


def query_losses(
    loss: Loss,
    parameters: Parameters,
    support: Any,
    query: Any,
    rate: float,
    steps: int,
    first_order: bool = False,
) -> Tensor:
    """The loss on each task's query, `(tasks,)`, after adapting to its support."""

    def of_task(seen: Any, asked: Any) -> Tensor:
        return loss(adapted(loss, parameters, seen, rate, steps, first_order), asked)

    return vmap(of_task, randomness="different")(support, query)


@dataclass(frozen=True, kw_only=True)
class MAMLConfig:
    """All numbers of a MAML run."""

    learning_rate: Schedule = 2e-3
    """beta, the step size of the outer Adam; a number or a schedule."""
    batch_size: int = 50
    """Tasks per update."""
    ways: int = 5
    """Classes per task, where the tasks are classification, as with the following."""
    held_out: float = 0.2
    """Share of the classes that training never sees, for the result."""
    shots: int = 10
    """Examples of a task, or of each of its classes, to adapt to."""
    queries: int = 10
    """Examples of a task, or of each of its classes, to be judged on."""
    inner_learning_rate: float = 0.01
    """alpha, the step size of adapting."""
    inner_steps: int = 1
    """Steps of adapting while training; 0 trains one network for all tasks."""
    first_order: bool = False
    """Leave out the second derivatives: cheaper, and a little worse."""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """What examples are judged by: squared error of numbers, or the probability of labels."""
    max_grad_norm: float | None = None
    """Outer gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers, for backbones that have such."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "shots", "queries")
        check_range(self, 2, math.inf, "ways")
        check_range(self, 0, 1, "held_out")
        check_range(self, 0, math.inf, "learning_rate", "inner_learning_rate", "inner_steps", "max_grad_norm")


class MAML(Learner):
    """Model-agnostic meta-learning.

    Args:
        network: gives outputs `(n, k)` for examples `(n, ...)`, or such outputs and a state, as policies do.
        optimizer: a rule such as `adam(learning_rate=2e-3)`, for the outer steps.
        config: this algorithm's numbers.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, config: MAMLConfig = MAMLConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    def parameters_by_name(self) -> dict[str, Tensor]:
        """What is adapted: the network's trainable parameters."""
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def loss(self, parameters: Parameters, examples: Pairs) -> Tensor:
        """The loss of the network with these parameters on the examples `(n, ...)` of one task."""
        return self.judge(self.output(parameters, examples.x), examples.y)

    def output(self, parameters: Parameters, x: Tensor) -> Tensor:
        """What the network with these parameters gives for `(n, ...)`: `(n, k)`."""
        output = functional_call(self.network, dict(parameters), (x,))
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def judge(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss, 0-dim, of outputs `(n, k)`."""
        return (functional.mse_loss if self.config.loss == "mse" else functional.cross_entropy)(output, y)

    def update(self, batch: Tasks) -> Update:
        """One step on the loss after adapting; `per_sample` holds it for each task `(tasks,)`."""
        config, parameters = self.config, self.parameters_by_name()
        how = (config.inner_learning_rate, config.inner_steps, config.first_order)
        losses = query_losses(self.loss, parameters, batch.support, batch.query, *how)
        loss = losses.mean()
        with torch.no_grad():
            before = vmap(lambda asked: self.loss(parameters, asked), randomness="different")(batch.query).mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "loss_before": before, "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach())

    def predictions(self, batch: Tasks, steps: int) -> Tensor:
        """The outputs for each task's query after 0, 1, ... `steps` steps of adapting: `(steps + 1, tasks, n, k)`."""
        parameters, rate = self.parameters_by_name(), self.config.inner_learning_rate

        def of_task(seen: Pairs, asked: Pairs) -> Tensor:
            weights: Parameters = parameters
            found = [self.output(weights, asked.x)]
            for _ in range(steps):
                weights = adapted(self.loss, weights, seen, rate, 1)
                found.append(self.output(weights, asked.x))
            return torch.stack(found)

        with torch.no_grad():  # none but the inner gradients
            over_tasks = vmap(of_task, out_dims=1, randomness="different", chunk_size=CHUNK)
            return over_tasks(batch.support, batch.query)

    def curve(self, batch: Tasks, steps: int) -> Tensor:
        """The loss on each task's query after 0, 1, ... `steps` steps of adapting: `(steps + 1, tasks)`."""
        return vmap(vmap(self.judge), in_dims=(0, None))(self.predictions(batch, steps), batch.query.y)

    def adapt(self, support: Pairs, steps: int | None = None) -> nn.Module:
        """A copy of the network, adapted to the support of one task, `(n, ...)`; the original stays as it is.

        Args:
            support: examples of the task.
            steps: by default as many as in training, and at least one.
        """
        steps = max(self.config.inner_steps, 1) if steps is None else steps
        with torch.no_grad():
            weights = adapted(self.loss, self.parameters_by_name(), support, self.config.inner_learning_rate, steps)
            network = copy.deepcopy(self.network)
            for name, value in network.named_parameters():
                if name in weights:
                    value.copy_(weights[name])
        return network

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Sinusoids]:
        """The smallest honest run: sinusoids, two layers of 16."""
        config = MAMLConfig(batch_size=8)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            network = nn.Sequential(MLP(1, hidden=(16, 16), activation="tanh"), nn.Linear(16, 1))
        source = Sinusoids(config.batch_size, config.shots, config.queries, seed)
        return cls(network, adam(config.learning_rate), config), source
