"""InfoGAN: a GAN whose code says something of its examples, without labels (Chen et al. 2016, arXiv:1606.03657).

    L_D = -E[ log s(D(x)) ] - E[ log(1 - s(D(G(z, c)))) ] - lambda L_I          s the sigmoid
    L_G = -E[ log s(D(G(z, c))) ] - lambda L_I                                  z ~ N(0, I), c uniform in 1 ... K
    L_I = ln K + E[ log Q(c | G(z, c)) ]  <=  I(c; G(z, c))  <=  ln K

Q stands on the discriminator's backbone. L_I is the mutual information where Q is the true posterior, and 0 where it
knows nothing. We differ from the paper in codes of one categorical variable, and as `gan` does: the target of real
examples, fading noise on the discriminator's inputs, and samples and codes by an average of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Described, Generator, Spec, described
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Target, Update, at, average_rate
from agentlib.core.config import NonNegative, Range
from agentlib.data import Examples, Splits
from agentlib.data.toys import eight_gaussians
from agentlib.families.generative import GenerativeFacts, on_generative
from agentlib.learners.generative.adversarial import Discriminating, generator_for, noise_for, noisy
from agentlib.learners.generative.gan import discriminator_loss, generator_loss


def information_bound(logits: Tensor, code: Tensor) -> Tensor:
    """ln K + E[ log Q(c | x) ] in nats, of logits `(B, K)` of Q and codes `(B,)` that were drawn alike."""
    return math.log(logits.shape[1]) - functional.cross_entropy(logits, code)


class CodedGenerator(Described):
    """x = G(z, c), and Q(c | x): a generator by codes, and the network that reads them.

    Args:
        generator: its labels are the codes.
        reader: the backbone of Q.
    """

    kind = "coded_generator"

    def __init__(self, generator: Generator, reader: nn.Module) -> None:
        super().__init__()
        self.generator, self.backbone, self.n_classes = generator, reader, generator.n_classes
        width = int(reader.feature_dim)  # type: ignore[arg-type]
        self.head = nn.Linear(width, 1 + self.n_classes)

    @property
    def spec(self) -> Spec:
        return described(self, reader=self.backbone)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds `(B,)` that examples `(B, ...)` are real, and logits `(B, K)` of their codes."""
        output = self.head(self.backbone(x))  # (B, 1 + K)
        return output[:, 0], output[:, 1:]

    def code(self, x: Tensor) -> Tensor:
        """The most probable codes `(B,)` of examples `(B, ...)`."""
        codes: Tensor = self(x)[1].argmax(1)
        return codes

    def sample(self, n: int, label: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)` with the codes `(n,)`, by default all in turn."""
        codes = torch.arange(n, device=self.head.weight.device) % self.n_classes if label is None else label
        return self.generator.sample(n, codes, generator=generator)


@dataclass(frozen=True, kw_only=True)
class InfoGANConfig(Discriminating):
    """The numbers of an InfoGAN's run."""

    categories: Annotated[int, Range(2)] = 10
    """K, the number of codes."""
    information: NonNegative = 1.0
    """Weight of the mutual information of code and example."""


class InfoGAN(Learner):
    """A generator by codes against a discriminator that reads them, too."""

    def __init__(self, model: CodedGenerator, optimizer: Optimizer, config: InfoGANConfig = InfoGANConfig()) -> None:
        super().__init__()
        self.config, self.model, self.average = config, model, Target(model)
        self.generator_step = Step(model.generator, optimizer, config.max_grad_norm)
        self.discriminator_step = Step([model.backbone, model.head], optimizer, config.max_grad_norm)

    @staticmethod
    def first_network(config: InfoGANConfig, facts: GenerativeFacts) -> Generator:
        return generator_for(config, facts._replace(n_classes=config.categories))

    @staticmethod
    def layers(config: InfoGANConfig) -> dict[str, Any]:
        return {"activation": "leaky_relu" if config.dropout else "relu", "dropout": config.dropout}

    @classmethod
    def build(cls, backbone: nn.Module, config: InfoGANConfig, facts: GenerativeFacts) -> Self:
        """An InfoGAN whose discriminator and Q stand on a backbone."""
        generator = facts.generator or cls.first_network(config, facts)
        return cls(CodedGenerator(generator, backbone), config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        """The averaged model."""
        return self.average.network

    def sample(self, n: int, label: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n examples `(n, *shape)` by the averaged model, with the codes `(n,)`, by default all in turn."""
        network: Any = self.average.network
        samples: Tensor = network.sample(n, label, generator=generator)
        return samples

    def update(self, batch: Examples) -> Update:
        """One step of the discriminator and Q, then one of the generator."""
        generator, deviation = self.model.generator, at(self.config.instance_noise, batch.clock)
        code = torch.randint(self.config.categories, (len(batch.x),), device=batch.x.device)

        def read(x: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = self.model(noisy(x, deviation))
            return found

        fake = generator(noise_for(batch.x, generator), code)
        on_real, (on_fake, logits) = read(batch.x)[0], read(fake.detach())
        loss = discriminator_loss(on_real, on_fake, self.config.real_target)
        self.discriminator_step(loss - self.config.information * information_bound(logits, code), batch.clock)

        on_fake, logits = read(fake)
        deceit, information = generator_loss(on_fake), information_bound(logits, code)
        self.generator_step(deceit - self.config.information * information, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        metrics = {"discriminator_loss": loss, "generator_loss": deceit, "information": information}
        return Update({name: value.detach() for name, value in metrics.items()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: eight Gaussians without their labels, two layers of 16."""
        sizes: Any = {"learning_rate": 1e-3, "batch_size": 32, "latent_dim": 2, "net_arch": (16, 16)}
        config = InfoGANConfig(adam_betas=(0.9, 0.999), categories=8, average=0.9, dropout=0.0, **sizes)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[eight_gaussians(400)] * 3))


RECIPE = Recipe(
    "infogan",
    InfoGAN,
    InfoGANConfig,
    on_generative,
    "a GAN with codes that mean something, found without labels (Chen et al. 2016)",
    steps=6_000,
)
