"""Self-distillation without labels: a student says of each view what a slow average of it says of another (DINO).

    L = -sum_k p'_k(v) log p_k(v'),     p = softmax(s / tau),   p' = softmax((s' - c) / tau')
    s = cosines of g(f(v)) with D prototypes,   c <- m c + (1 - m) E[s'],   (f', g') <- (f', g') + r ((f, g) - (f', g'))

The mean goes over all views v' and the first two as v, which differ (Caron et al. 2021, arXiv:2104.14294). A collapse
has two forms: centring by c works against the same prototype for all images, and sharpening by tau' < tau against equal
shares for all prototypes, where the loss is ln D. `teacher_entropy` is 0 for the first and ln D for the second.

`local_views` beyond the first two are small crops, stretched to the size of the image, where the paper shows them
smaller. The rate r falls to 0 by half a cosine, as there; we have no last layer that is frozen at first, and Adam
without decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Target, Update, at
from agentlib.core.config import Count, Range, Unit, Whole
from agentlib.data import Dataset, Examples
from agentlib.data.augmentation import RandomCrop
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread

GLOBAL = 2
"""Views of the whole image, which the average network sees."""


def distillation_losses(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_k p'_k log p_k `(N,)`, the mean over pairs of different views.

    Args:
        student: `(V, N, D)`, logits of all views over their temperature.
        teacher: `(2, N, D)`, those of the first two, centred, over theirs.
    """
    cross = -torch.einsum("anD,bnD->abn", teacher.softmax(-1), student.log_softmax(-1))  # (2, V, N)
    others = 1.0 - torch.eye(len(teacher), len(student), dtype=cross.dtype, device=cross.device)
    return (others[..., None] * cross).sum((0, 1)) / (len(teacher) * (len(student) - 1))


class Cosines(nn.Module):
    """Cosines `(..., D)` of numbers `(..., d)` with D prototypes."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(prototypes, dim))

    def forward(self, z: Tensor) -> Tensor:
        return functional.normalize(z, dim=-1) @ functional.normalize(self.weight, dim=-1).T


@dataclass(frozen=True, kw_only=True)
class DINOConfig(Views):
    """The numbers of a DINO run."""

    prototypes: Annotated[int, Range(2)] = 256
    """Number D of prototypes, over which distributions are compared; the paper has 65,536."""
    projection_dim: Count = 64
    """Width of the projections that are compared with prototypes."""
    temperature: Annotated[float, Range(1e-3)] = 0.1
    """Temperature tau of the student."""
    teacher_temperature: Annotated[float, Range(1e-3)] = 0.04
    """Temperature of the average network; below the student's, so that shares do not become equal."""
    center_momentum: Unit = 0.9
    """Share of itself that the centre keeps at each update."""
    momentum: Unit = 0.99
    """Share of itself that the average network keeps at each update, at first; it rises to 1."""
    local_views: Whole = 2
    """Small crops of each image, besides the two views of all of it."""
    local_area: Annotated[float, Range(0.01, 1)] = 0.4
    """Largest share of an image's area that a small crop keeps; the smallest is an eighth of it."""


class DINO(Learner):
    """Features that agree with their own average on what an image shows."""

    center: Tensor

    def __init__(self, network: Projector, optimizer: Optimizer, config: DINOConfig = DINOConfig()) -> None:
        super().__init__()
        self.config, self.network, self.views = config, network, GLOBAL + config.local_views
        self.head = Cosines(network.dim, config.prototypes)
        self.average, self.average_head = Target(network), Target(self.head)
        self.register_buffer("center", torch.zeros(config.prototypes))
        self.local = RandomCrop(config.local_area / 8.0, largest=config.local_area)
        self.step = Step([network, self.head], optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DINOConfig, facts: ViewFacts) -> Self:
        return cls(Projector(backbone, config.projection_dim), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on views `(V, N, ...)`; `per_sample` holds the loss of each example `(N,)`."""
        config, views, n = self.config, batch.x, batch.x.shape[1]
        whole = views[:GLOBAL].flatten(0, 1)
        with torch.no_grad():
            scores = self.average_head(self.average(whole)).unflatten(0, (GLOBAL, n))  # (2, N, D)
            teacher = (scores - self.center) / config.teacher_temperature
        local = [self.local(view) for view in views[GLOBAL:]]
        z = self.network(torch.cat([whole, *local]))  # (V N, d)
        student = self.head(z).unflatten(0, (self.views, n)) / config.temperature  # (V, N, D)
        losses = distillation_losses(student, teacher)  # (N,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        rate = at(Cosine(1.0 - config.momentum, 0.0), batch.clock)
        self.average.follow(rate)
        self.average_head.follow(rate)
        self.center.lerp_(scores.mean((0, 1)).to(self.center), 1.0 - config.center_momentum)
        entropy = torch.special.entr(teacher.softmax(-1)).sum(-1).mean()
        metrics = {"loss": loss.detach(), "teacher_entropy": entropy, "spread": spread(z.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four noisy bars in 6 x 6 pixels, an MLP of 16, eight prototypes."""
        sizes: Any = {"batch_size": 16, "projection_dim": 8, "prototypes": 8, "local_views": 1}
        # The way of the centre from zero to its place would raise the loss at first.
        config = DINOConfig(learning_rate=1e-3, rotation=0.0, center_momentum=1.0, **sizes)
        bars = torch.eye(6)[1 + torch.arange(32) % 4][:, None, :, None].expand(-1, -1, -1, 6).clone()  # (32, 1, 6, 6)
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(bars), backbone=backbone)


PRESETS = {"digits": {"net_arch": (512, 512, 128)}}
SUMMARY = "features that agree with their own average on all views (Caron et al. 2021), images"
RECIPE = Recipe("dino", DINO, DINOConfig, on_views, SUMMARY, steps=1_000, presets=PRESETS)
