"""CycleGAN: from one kind of example to another and back, learned without pairs (Zhu et al. 2017, arXiv:1703.10593).

    L_D = E[ (D_B(b) - 1)^2 ] + E[ D_B(G(a))^2 ],   and likewise of D_A and F(b)
    L_GF = E[ (D_B(G(a)) - 1)^2 ] + E[ (D_A(F(b)) - 1)^2 ] + lambda (L_cycle + mu L_identity)
    L_cycle = E| F(G(a)) - a | + E| G(F(b)) - b |,   L_identity = E| G(b) - b | + E| F(a) - a |

Absolute differences are means over numbers. Any G and F that undo each other have no cycle loss, also those that mix up
the classes of a and b: L_identity is against that. We differ in the networks, and in fading noise on the inputs of the
discriminators in place of a history of samples; examples are turned by an average of the weights.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from agentlib.backbones import Critic, Described, MLPDecoder, UNet
from agentlib.backbones.choice import backbone_for, space_of
from agentlib.core import Learner, Linear, Optimizer, Recipe, Source, Step, Target, Update, at, average_rate
from agentlib.core.config import NonNegative, Range, Rate
from agentlib.data import Dataset, Examples, Splits
from agentlib.data.toys import two_moons
from agentlib.families.generative import GenerativeFacts, on_generative, require_unit
from agentlib.learners.generative.adversarial import Opposed, noisy


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """E[(real - 1)^2] + E[fake^2] of a discriminator's outputs `(B,)` (Mao et al. 2017); 1/2 where both are 1/2."""
    return (real - 1.0).square().mean() + fake.square().mean()


class Cycle(Described):
    """Both ways between two kinds of examples, 0 and 1.

    Args:
        there: G, from kind 0 to kind 1: images `(B, C, H, W)` to images, or flat examples `(B, d)` to examples.
        back: F, from kind 1 to kind 0.
        squash: the outputs go through a sigmoid, for images between 0 and 1.
    """

    kind = "cycle"

    def __init__(self, there: nn.Module, back: nn.Module, squash: bool = False) -> None:
        super().__init__()
        self.there, self.back, self.squash = there, back, bool(squash)

    def forward(self, x: Tensor, kind: int = 1) -> Tensor:
        """Examples `(B, ...)` of the other kind, turned into this one."""
        network = self.there if kind else self.back
        turned: Tensor = network(x) if self.squash else network(x.flatten(1))
        return turned.sigmoid() if self.squash else turned


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(Opposed):
    """The numbers of a CycleGAN's run."""

    learning_rate: Rate = Linear(1e-3, 0.0)
    kinds: tuple[str, str] | None = None
    """The two labels whose examples are turned into each other; None takes the first two."""
    cycle: NonNegative = 10.0
    """Weight of the cycle loss, lambda."""
    identity: NonNegative = 0.5
    """Weight of the identity loss beside the cycle loss, mu."""
    widths: tuple[int, ...] = (16, 32)
    """Channels of the U-Nets that turn images, at each size."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the layers of networks of other examples, by default 64 and 64; and of discriminators without a CNN."""
    validation: Annotated[float, Range(0, 0.5)] = 0.15
    """Share of the examples that are held out for evaluation during training; 0 holds out none."""


class CycleGAN(Learner):
    """Learns to turn examples of two kinds into each other."""

    noise = None

    def __init__(
        self, model: Cycle, critics: nn.ModuleList, optimizer: Optimizer, config: CycleGANConfig = CycleGANConfig()
    ) -> None:
        super().__init__()
        self.config, self.model, self.critics, self.average = config, model, critics, Target(model)
        self.model_step = Step(model, optimizer, config.max_grad_norm)
        self.critics_step = Step(critics, optimizer, config.max_grad_norm)

    @staticmethod
    def examples(data: Dataset, config: CycleGANConfig) -> Dataset:
        """One example of each kind, which do not belong together: `(N, 2, ...)`; the rarer kind has the N.

        Raises:
            ValueError: no two labels; or images that do not lie between 0 and 1.
        """
        names = config.kinds or data.classes[:2]
        if len(set(names)) != 2 or not set(names) <= set(data.classes):
            raise ValueError(
                f"cyclegan turns examples of two labels into each other, not of {', '.join(names) or 'none'}; the data "
                f"has {', '.join(data.classes) or 'none'}"
            )
        if data.x.dim() == 4:
            require_unit(data.x)
        kinds = [data.x[data.targets == data.classes.index(name)] for name in names]
        n = min(map(len, kinds))
        return Dataset(torch.stack([kind[:n] for kind in kinds], 1))

    @staticmethod
    def network(backbone: Any, config: CycleGANConfig, facts: GenerativeFacts) -> nn.Module:
        shape = facts.shape[1:]
        is_image, hidden = len(shape) == 3, config.net_arch or (64, 64)
        if isinstance(backbone, nn.Module):
            return Cycle(backbone, copy.deepcopy(backbone), is_image)
        if backbone != "auto":
            raise ValueError(f"cyclegan takes backbone auto, or a module from examples to examples, not {backbone!r}")
        if is_image:
            return Cycle(UNet(shape, widths=config.widths), UNet(shape, widths=config.widths), squash=True)
        size = math.prod(shape)
        return Cycle(MLPDecoder(size, shape, hidden), MLPDecoder(size, shape, hidden))

    @classmethod
    def build(cls, backbone: nn.Module, config: CycleGANConfig, facts: GenerativeFacts) -> Self:
        """A CycleGAN whose `Cycle` is given; the discriminators are the usual networks for such examples."""
        space = space_of(facts.train.x[:, 0])
        critics = nn.ModuleList(Critic(backbone_for(space, "auto", config.net_arch)) for _ in range(2))
        model: Any = backbone
        return cls(model, critics, config.optimizer(), config)

    @property
    def product(self) -> nn.Module:
        """The averaged networks."""
        return self.average.network

    def predict(self, x: Tensor) -> Tensor:
        """Pairs of examples `(B, 2, ...)` after going there and back, and back and there."""
        return self.panels(x)[:, 2::3]

    def panels(self, x: Tensor) -> Tensor:
        """Of pairs `(B, 2, ...)`, each example, the same turned, and that turned back: `(B, 6, ...)`."""
        turned, (a, b) = self.average.network, x.unbind(1)
        there, back = turned(a, 1), turned(b, 0)
        return torch.stack([a, there, turned(there, 0), b, back, turned(back, 1)], 1)

    def update(self, batch: Examples) -> Update:
        """One step of both discriminators, then one of both ways."""
        a, b = batch.x.unbind(1)
        turned, deviation = self.model, at(self.config.instance_noise, batch.clock)

        def judged(kind: int, x: Tensor) -> Tensor:
            height: Tensor = self.critics[kind](noisy(x, deviation))
            return height

        fakes = turned(b, 0), turned(a, 1)
        losses = [
            least_squares(judged(kind, real), judged(kind, fakes[kind].detach())) for kind, real in enumerate((a, b))
        ]
        self.critics_step(losses[0] + losses[1], batch.clock)

        deceit = (judged(0, fakes[0]) - 1.0).square().mean() + (judged(1, fakes[1]) - 1.0).square().mean()
        cycle = (turned(fakes[1], 0) - a).abs().mean() + (turned(fakes[0], 1) - b).abs().mean()
        loss = deceit + self.config.cycle * cycle
        if self.config.identity:
            kept = (turned(b, 1) - b).abs().mean() + (turned(a, 0) - a).abs().mean()
            loss = loss + self.config.cycle * self.config.identity * kept
        self.model_step(loss, batch.clock)
        self.average.follow(average_rate(self.config.average, batch.clock))
        metrics = {"discriminator_loss": losses[0] + losses[1], "generator_loss": loss, "cycle": cycle}
        return Update({name: value.detach() for name, value in metrics.items()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: from one moon to the other, one layer of 16."""
        config = CycleGANConfig(batch_size=32, net_arch=(16,), average=0.9)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[two_moons(400)] * 3))


RECIPE = Recipe(
    "cyclegan",
    CycleGAN,
    CycleGANConfig,
    on_generative,
    "two kinds of examples turned into each other, without pairs (Zhu et al. 2017)",
    steps=4_000,
)
