"""An algorithm of your own, with all that ours have: a folder, a report, resume, and the shell.

    python examples/write_your_own_learner.py [--updates 1000] [--gamma 2]
    cd examples && agentlib train write_your_own_learner:RECIPE --data digits --gamma 1

Here: classification by the focal loss, which learns most from the examples that are still wrong.

Needs the extra `vision`, for the digits: pip install -c constraints.txt -e '.[vision]'. With `plots` the report has
pictures, too. Writes the run to runs/focal-1, or to the next number that is free. It takes about 40 seconds.
"""

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

import agentlib
from agentlib.backbones import Optimized
from agentlib.core import Recipe, Source, Step
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.examples import ExampleFacts, on_examples
from agentlib.learners import Learner, Update
from agentlib.policies import CategoricalPolicy
from agentlib.testing import check_learner


@dataclass(frozen=True, kw_only=True)
class FocalConfig(Optimized):  # has learning_rate, batch_size, max_grad_norm and optimizer()
    gamma: float = 2.0
    """Weight of hard examples; 0 is the cross-entropy."""


class Focal(Learner):
    """L = -(1 - p[y])^gamma log p[y],  p = softmax(logits)  (Lin et al. 2017, arXiv:1708.02002)."""

    def __init__(self, policy: CategoricalPolicy, config: FocalConfig) -> None:
        super().__init__()
        self.config, self.policy = config, policy
        self.step = Step(policy, config.optimizer(), config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: FocalConfig, facts: ExampleFacts) -> Self:
        """The family chooses the backbone for the data; the head is ours."""
        return cls(CategoricalPolicy(backbone, facts.n_classes), config)

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, K)`, by which the family judges."""
        return self.policy(x)[0]

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss `(B,)` of each example; the family watches it on held-out ones."""
        log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
        return -((1.0 - log_p.exp()) ** self.config.gamma) * log_p

    def update(self, batch: Examples) -> Update:
        loss = self.losses(self.predict(batch.x), batch.y).mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """A run of seconds, for `check_learner`: two clouds of points."""
        labels = torch.arange(64) % 2
        points = 2.0 * torch.eye(2)[labels] + torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        data = Dataset(points, labels, ("right", "up"))
        return RECIPE.tiny(cls, FocalConfig(), seed, data=Splits(data, data, data))


RECIPE = Recipe("focal", Focal, FocalConfig, on_examples, "classification by the focal loss", steps=1_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--gamma", type=float, default=2.0)
    arguments = parser.parse_args()

    check_learner(Focal)
    print("The contract that our learners keep holds.")
    out = next(folder for number in itertools.count(1) if not (folder := Path(f"runs/focal-{number}")).exists())
    settings = {"steps": arguments.updates, "gamma": arguments.gamma, "out": out, "threads": "auto"}
    agentlib.train(RECIPE, data="digits", callback=lambda clock, metrics: clock.fraction < 0.5, **settings)
    print("Stopped half-way, as a callback can. Now the rest, from the folder alone:")
    print(agentlib.train(RECIPE, resume=out))
    print(f"The report: {out / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:  # of an extra that is not installed; the message names it
        raise SystemExit(f"{error}") from None
