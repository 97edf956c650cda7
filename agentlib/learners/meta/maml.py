"""Model-agnostic meta-learning (MAML; Finn et al. 2017, arXiv:1703.03400).

    theta_i = theta - alpha grad L(theta; support of task i)         `inner_steps` times
    theta  <- theta - beta grad sum_i L(theta_i; query of task i)

The weights are learned from which a few steps of gradient descent on few examples lead to a good network. The outer
gradient goes through the inner steps, whose own derivative is the second one: it is exact here, by `torch.func`. With
`first_order` that derivative is taken to be the identity (section 5.2 of the paper). With `inner_steps=0` nothing is
adapted while training: one network for all tasks, the baseline that the paper calls pretrained.

    theta  <- theta - beta sum_i (theta - theta_i) / alpha          Reptile (Nichol et al. 2018, arXiv:1803.02999)

With `reptile` the weights go to where the steps lead, which are then on support and query by turns: the sum of the
slopes on the way. One step is the gradient for one network for all tasks; the second adds that of first-order MAML.

Adam is the outer rule, as in the authors' code; batch statistics would leak between support and query, so that
networks have LayerNorm or none.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Rate, Whole
from agentlib.data.episodes import Pairs, Tasks
from agentlib.families.tasks import FewShot, TaskFacts, on_tasks
from agentlib.learners.meta.adapting import Parameters, adapted, query_losses, reptile_losses
from agentlib.metrics.targets import labels_for, numbers_for
from agentlib.policies import CategoricalPolicy, Predictor

CHUNK = 100
"""Tasks that are adapted at once for predictions; each has weights of its own."""


@dataclass(frozen=True, kw_only=True)
class MAMLConfig(FewShot):
    """The numbers of a MAML run."""

    learning_rate: Rate = 2e-3
    """Learning rate beta of the outer Adam: a number or a schedule."""
    batch_size: Count = 50
    """Tasks per update."""
    shots: Count = 10
    """Examples per task, or per class of a task, to adapt to."""
    queries: Count = 10
    """Other examples per task, or per class of a task, to predict."""
    inner_learning_rate: NonNegative = 0.01
    """Step size alpha of adapting."""
    inner_steps: Whole = 1
    """Gradient steps of adapting in training; 0 trains one network for all tasks."""
    first_order: bool = False
    """Leave out the second derivatives: cheaper, and a little worse."""
    reptile: bool = False
    """Go to the adapted weights, as Reptile does, without derivatives of steps; `first_order` has no effect then."""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """Loss of a task: squared errors of numbers, or the cross-entropy of labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reptile and not self.inner_steps:
            raise ValueError("Reptile goes to where steps of adapting lead: give inner_steps=1 or more")


@dataclass(frozen=True, kw_only=True)
class ReptileConfig(MAMLConfig):
    """The numbers of a run of Reptile."""

    inner_steps: Whole = 5
    reptile: bool = True


class MAML(Learner):
    """Model-agnostic meta-learning of a network with outputs `(n, k)`, or with outputs and a state as policies."""

    def __init__(self, network: nn.Module, optimizer: Optimizer, config: MAMLConfig = MAMLConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: MAMLConfig, facts: TaskFacts) -> Self:
        """MAML of a backbone under a linear layer.

        Raises:
            ValueError: the config's loss is not for such tasks.
        """
        kind, loss = ("classification", "cross_entropy") if facts.ways else ("regression", "mse")
        if config.loss != loss:
            raise ValueError(f"loss={config.loss!r} is not for tasks of {kind}: give loss={loss!r}")
        network = CategoricalPolicy(backbone, facts.ways) if facts.ways else Predictor(backbone, facts.outputs)
        return cls(network, config.optimizer(), config)

    def parameters_by_name(self) -> dict[str, Tensor]:
        """The parameters that are adapted: the network's trainable ones."""
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def loss(self, parameters: Parameters, examples: Pairs) -> Tensor:
        """The loss of the network with these parameters on the examples `(n, ...)` of one task."""
        output = self.output(parameters, examples.x)
        if self.config.loss == "mse":
            return functional.mse_loss(output, numbers_for(output, examples.y))
        return functional.cross_entropy(output, labels_for(output.shape[:1], examples.y))

    def output(self, parameters: Parameters, x: Tensor) -> Tensor:
        """The outputs `(n, k)` of the network with these parameters for examples `(n, ...)`."""
        output = functional_call(self.network, dict(parameters), (x,))
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def update(self, batch: Tasks) -> Update:
        """One step on the loss after adapting; `per_sample` holds it for each task `(tasks,)`."""
        config, parameters = self.config, self.parameters_by_name()
        tasks = (self.loss, parameters, batch.support, batch.query, config.inner_learning_rate, config.inner_steps)
        if config.reptile:
            downhill, losses = reptile_losses(*tasks)
        else:
            downhill = losses = query_losses(*tasks, config.first_order)
        with torch.no_grad():
            before = vmap(lambda query: self.loss(parameters, query), randomness="different")(batch.query).mean()
        norm = self.step(downhill.mean(), batch.clock)
        metrics = {"loss": losses.detach().mean(), "loss_before": before, "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach())

    def predictions(self, batch: Tasks, steps: int) -> Tensor:
        """The outputs for each task's query after 0, 1, ... `steps` steps of adapting: `(steps + 1, tasks, n, k)`."""
        parameters, rate = self.parameters_by_name(), self.config.inner_learning_rate

        def of_task(support: Pairs, query: Pairs) -> Tensor:
            weights: Parameters = parameters
            outputs = [self.output(weights, query.x)]
            for _ in range(steps):
                weights = adapted(self.loss, weights, support, rate, 1)
                outputs.append(self.output(weights, query.x))
            return torch.stack(outputs)

        with torch.no_grad():  # apart from the inner gradients
            over_tasks = vmap(of_task, out_dims=1, randomness="different", chunk_size=CHUNK)
            return over_tasks(batch.support, batch.query)

    def predict(self, x: Tasks) -> Tensor:
        """The outputs `(tasks, n, k)` for each task's query after the steps of adapting of training, at least one."""
        return self.predictions(x, max(self.config.inner_steps, 1))[-1]

    def adapt(self, support: Pairs, steps: int | None = None) -> nn.Module:
        """A copy of the network, adapted to the support `(n, ...)` of one task, by default in the steps of training.

        Raises:
            ValueError: targets that do not fit the outputs, or labels that are none of the classes.
        """
        steps = max(self.config.inner_steps, 1) if steps is None else steps
        with torch.no_grad():
            try:
                weights = adapted(self.loss, self.parameters_by_name(), support, self.config.inner_learning_rate, steps)
            except IndexError:
                labels = sorted(set(support.y.flatten().tolist()))
                raise ValueError(f"the support has the labels {labels}, and the network no output for each: number the "
                                 "classes of each task from 0") from None  # fmt: skip
            network = copy.deepcopy(self.network)
            for name, value in network.named_parameters():
                if name in weights:
                    value.copy_(weights[name])
        return network

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: sinusoids, two layers of 16."""
        backbone = {"name": "mlp", "arguments": {"input_dim": 1, "hidden": [16, 16], "activation": "tanh"}}
        return RECIPE.tiny(cls, MAMLConfig(batch_size=8), seed, data="sinusoids", backbone=backbone)


RECIPE = Recipe(
    "maml",
    MAML,
    MAMLConfig,
    on_tasks,
    "model-agnostic meta-learning (Finn et al. 2017), regression and classification",
    steps=3_000,
    presets={
        "sinusoids": {"net_arch": (40, 40)},
        "digits": {"loss": "cross_entropy", "held_out": 0.5, "shots": 1, "queries": 5, "batch_size": 8},
        "glyphs": {"loss": "cross_entropy", "shots": 1, "queries": 5, "batch_size": 8},
    },
)
REPTILE = replace(
    RECIPE,
    name="reptile",
    config=ReptileConfig,
    summary="first-order meta-learning (Nichol et al. 2018), regression and classification",
)
