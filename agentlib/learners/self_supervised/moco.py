"""Momentum contrast: a view finds its partner among the views of many earlier images, which a queue keeps (MoCo).

    L = -log( exp(q k / tau) / (exp(q k / tau) + sum_j exp(q n_j / tau)) ),     q = g(f(v)),  k = g'(f'(v'))
    (f', g') <- m (f', g') + (1 - m) (f, g),     queue <- [queue, keys] without its oldest

q and k are of length 1, and n_1 to n_K are the keys of earlier batches (He et al. 2020, arXiv:1911.05722, with the head
of two layers of Chen et al. 2020, arXiv:2003.04297). The slow average (f', g') keeps keys of different age comparable,
so that there are many negatives without large batches. Where all keys are equal the loss is ln(K + 1).

The average is in eval mode, so that no statistics of a batch tell a view its partner, and nothing is shuffled; we have
Adam in place of SGD. A queue that is longer than the data holds images' own earlier keys as negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Target, Update
from agentlib.core.config import Count, Range, Unit
from agentlib.data import Dataset, Examples
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread


def key_logits(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Products over the temperature `(N, 1 + K)`, the own key first, of `(N, d)`, `(N, d)` and keys `(K, d)`."""
    own = (query * key).sum(1, keepdim=True)  # (N, 1)
    return torch.cat([own, query @ queue.T], 1) / temperature


@dataclass(frozen=True, kw_only=True)
class MoCoConfig(Views):
    """The numbers of a MoCo run."""

    temperature: Annotated[float, Range(1e-3)] = 0.2
    """Temperature tau of the softmax: the smaller, the more the most similar keys count."""
    queue_size: Count = 4096
    """Keys of earlier batches that are kept as negatives; at least a batch."""
    momentum: Unit = 0.99
    """Share of itself that the average network keeps at each update."""
    projection_dim: Count = 64
    """Width of the projections that the loss compares."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue_size < self.batch_size:
            raise ValueError(
                f"MoCoConfig.queue_size is {self.queue_size}, less than the {self.batch_size} keys of a batch: give "
                "a longer queue, or a smaller batch_size"
            )


class MoCo(Learner):
    """Contrastive learning of features against a queue of keys."""

    queue: Tensor

    def __init__(self, network: Projector, optimizer: Optimizer, config: MoCoConfig = MoCoConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.average = Target(network, tau=1.0 - config.momentum)
        self.register_buffer("queue", functional.normalize(torch.randn(config.queue_size, network.dim), dim=1))
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: MoCoConfig, facts: ViewFacts) -> Self:
        return cls(Projector(backbone, config.projection_dim), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on two views `(2, N, ...)`; `per_sample` holds the loss of each example `(N,)`."""
        with torch.no_grad():
            key = functional.normalize(self.average(batch.x[1]), dim=1)  # (N, d)
        query = functional.normalize(self.network(batch.x[0]), dim=1)  # (N, d)
        logits = key_logits(query, key, self.queue, self.config.temperature)  # (N, 1 + K)
        losses = -logits.log_softmax(1)[:, 0]  # (N,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        self.average.follow()
        self.queue.copy_(torch.cat([self.queue[len(key) :], key]))
        accuracy = (logits.argmax(1) == 0).float().mean()
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "spread": spread(query.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four noisy bars in 6 x 6 pixels, an MLP of 16, a queue of two batches."""
        config = MoCoConfig(learning_rate=1e-3, batch_size=16, queue_size=32, projection_dim=8, rotation=0.0)
        bars = torch.eye(6)[1 + torch.arange(32) % 4][:, None, :, None].expand(-1, -1, -1, 6).clone()  # (32, 1, 6, 6)
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(bars), backbone=backbone)


DIGITS = {"net_arch": (512, 512, 128), "queue_size": 512}
SUMMARY = "features that tell a view from a queue of others (He et al. 2020), images"
RECIPE = Recipe("moco", MoCo, MoCoConfig, on_views, SUMMARY, steps=1_000, presets={"digits": DIGITS})
