"""PixelCNN (van den Oord et al. 2016, arXiv:1601.06759; gated and conditional: arXiv:1606.05328).

    p(x) = prod_i p(x_i | x_1 ... x_{i-1}),     L = -E[ log p(x) ]

The likelihood is exact: of bits (Bernoulli), or of levels by discretized logistic mixtures (Salimans et al. 2017,
arXiv:1701.05517), see `pixel_model`. The network is `agentlib.backbones.GatedPixelCNN`, or masked self-attention,
`PixelTransformer`, by backbone="pixel_transformer". The lecture notes write x_{<=i} for the pixels that p(x_i) depends
on; it is x_{<i}. Samples and likelihoods are by an average of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import GatedPixelCNN, PixelTransformer
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Target, Update, average_rate
from agentlib.core.config import Count, Range, Rate, Unit
from agentlib.data import Dataset, Examples, Splits
from agentlib.data.batches import Transform
from agentlib.families.generative import GenerativeFacts, on_generative, require_unit
from agentlib.learners.generative.bits import Bits
from agentlib.learners.generative.pixel_model import Likelihood, PixelModel, outputs_for
from agentlib.metrics.likelihoods import independent_bernoulli, independent_levels


@dataclass(frozen=True, kw_only=True)
class PixelCNNConfig(Bits):
    """The numbers of a PixelCNN's run."""

    learning_rate: Rate = Cosine(2e-3, 0.0)
    likelihood: Likelihood = "logistic"
    """Distribution of a pixel given those before: "bernoulli" for zeros and ones, "logistic" for levels."""
    levels: Annotated[int, Range(2)] = 256
    """Levels between 0 and 1, both included, that numbers of likelihood="logistic" have."""
    mixtures: Count = 10
    """Logistic distributions that are mixed for each pixel."""
    conditional: bool = False
    """Give the model each example's label, so that samples can be drawn by label."""
    channels: Count = 32
    """Features of each pixel, in each of the two stacks; the width of a pixel_transformer, four heads wide."""
    layers: Count = 6
    """Gated layers, or those of a pixel_transformer."""
    kernel: Annotated[int, Range(3)] = 5
    """Side of the whole kernels, odd; a pixel_transformer sees all pixels before."""
    dropout: Unit = 0.0
    """Share of the features that are zeroed in training."""
    average: Unit = 0.998
    """Decay rate of the average of the weights, from which samples and likelihoods come."""
    validation: Annotated[float, Range(0, 0.5)] = 0.15
    """Share of the examples that are held out for evaluation during training; 0 holds out none."""


class PixelCNN(Learner):
    """Learns images by the likelihood of each pixel given those before it."""

    def __init__(self, model: PixelModel, optimizer: Optimizer, config: PixelCNNConfig = PixelCNNConfig()) -> None:
        super().__init__()
        self.model, self.config, self.average = model, config, Target(model)
        self.step = Step(model, optimizer, config.max_grad_norm)

    @staticmethod
    def examples(data: Dataset, config: PixelCNNConfig) -> Dataset:
        """The examples as bits or levels.

        Raises:
            ValueError: no images, or numbers that are no bits or levels.
        """
        if data.x.dim() != 4:
            shape = tuple(data.x.shape[1:])
            raise ValueError(f"pixel_cnn learns images (C, H, W), and an example of this data is {shape}")
        if config.likelihood == "bernoulli":
            return config.bits(data, "logistic")
        require_unit(data.x)
        level = data.x * (config.levels - 1)
        odd = (level - level.round()).abs() > 0.01
        if bool(odd.any()):
            raise ValueError(
                f"likelihood='logistic' is one of {config.levels} levels, k / {config.levels - 1}, and the data has "
                f"{float(data.x[odd][0]):.4g}: give the data's number, such as levels=17 for sixteenths, or round it"
            )
        return replace(data, x=level.round() / (config.levels - 1))

    @staticmethod
    def transform(config: PixelCNNConfig) -> Transform | None:
        """The random change of an example each time that it is seen."""
        return config.transform

    @staticmethod
    def network(backbone: Any, config: PixelCNNConfig, facts: GenerativeFacts) -> nn.Module:
        if isinstance(backbone, nn.Module):
            return backbone
        outputs = outputs_for(config.likelihood, facts.shape[0], config.mixtures)
        if backbone == "pixel_transformer":
            kind: Any = {"n_classes": facts.n_classes, "dropout": config.dropout}
            return PixelTransformer(facts.shape, outputs, config.channels, config.layers, **kind)
        if backbone not in ("auto", "gated_pixel_cnn"):
            raise ValueError(
                f"pixel_cnn takes backbone auto, pixel_transformer, or a module such as GatedPixelCNN, not {backbone!r}"
            )
        sizes = config.channels, config.layers, config.kernel, facts.n_classes, config.dropout
        return GatedPixelCNN(facts.shape, outputs, *sizes)

    @classmethod
    def build(cls, backbone: nn.Module, config: PixelCNNConfig, facts: GenerativeFacts) -> Self:
        """A PixelCNN by a network that sees the pixels before each one."""
        return cls(PixelModel(backbone, config.likelihood, config.levels), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        """The averaged model."""
        return self.average.network

    @property
    def passes(self) -> int:
        """Steps that one sample takes: its pixels."""
        height, width = self.model.network.shape[1:]  # type: ignore[index]
        return int(height) * int(width)

    def sample(self, n: int, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n images `(n, C, H, W)` of the averaged model."""
        network: Any = self.average.network
        samples: Tensor = network.sample(n, label, generator=generator)
        return samples

    def log_likelihood(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) `(B,)` in nats by the averaged model."""
        network: Any = self.average.network
        found: Tensor = network.log_likelihood(x, label if self.config.conditional else None)
        return found

    def likelihood_floor(self, train: Tensor, test: Tensor) -> tuple[Tensor, str]:
        """log p(x) `(N,)` of test images where all pixels are independent."""
        if self.config.likelihood == "bernoulli":
            return independent_bernoulli(train, test), "independent pixels"
        return independent_levels(train, test, self.config.levels), "independent pixels"

    def update(self, batch: Examples) -> Update:
        """One step up the likelihood; `per_sample` holds minus the log likelihoods `(B,)`."""
        losses = -self.model.log_likelihood(batch.x, batch.y if self.config.conditional else None)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        return Update({"loss": loss.detach(), "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: ramps of four levels to one of two sides, two layers of 8."""
        ramp = (torch.arange(4.0) / 3).expand(1, 4, 4)
        data = Dataset(torch.stack([ramp, ramp.flip(2)]).repeat(64, 1, 1, 1), torch.arange(128) % 2, ("right", "left"))
        sizes: Any = {"levels": 4, "mixtures": 2, "channels": 8, "layers": 2, "kernel": 3, "batch_size": 16}
        config = PixelCNNConfig(learning_rate=5e-3, conditional=True, average=0.9, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data))


RECIPE = Recipe(
    "pixel_cnn",
    PixelCNN,
    PixelCNNConfig,
    on_generative,
    "images pixel after pixel (van den Oord et al. 2016): exact likelihoods, of bits or levels",
    steps=5_000,
    presets={
        "digits": {
            **{"likelihood": "bernoulli", "threshold": 0.5, "validation": 0.0, "dropout": 0.5, "average": 0.98},
            **{"learning_rate": Cosine(4e-3, 0.0), "channels": 48, "layers": 5, "kernel": 3, "steps": 1_500},
        },
    },
)
