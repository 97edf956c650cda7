"""An algorithm of your own: one class with one method, checked by the same contract as ours.

    python examples/write_your_own_learner.py [--updates 2000]

Here: one neuron that learns logical OR from noisy examples.
"""

import argparse
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Clock, sgd
from agentlib.learners import Learner, Update, run
from agentlib.recipes.problem import fresh_weights
from agentlib.testing import check_learner
from agentlib.training import Source, Step


class Batch(NamedTuple):
    x: Tensor  # (B, 2)
    y: Tensor  # (B,)
    clock: Clock


class NoisyOr(Source):
    """Points around the corners of the unit square, labelled by OR."""

    def sample(self) -> Batch:
        corner = (torch.rand(64, 2) < 0.5).float()
        return Batch(corner + 0.2 * torch.randn(64, 2), corner.amax(1), self.batch_clock)


class Logistic(Learner):
    """Logistic regression: L = E[ log(1 + exp(-(2y - 1) w x)) ]  (Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x)."""

    def __init__(self, backbone: nn.Module, learning_rate: float = 0.5) -> None:
        super().__init__()
        self.network = nn.Sequential(backbone, nn.Linear(int(backbone.feature_dim), 1))
        self.step = Step(self.network, sgd(learning_rate))

    def update(self, batch: Batch) -> Update:
        logits = self.network(batch.x)[:, 0]  # (B,)
        loss = functional.binary_cross_entropy_with_logits(logits, batch.y)
        self.step(loss, batch.clock)
        accuracy = ((logits > 0) == (batch.y > 0.5)).float().mean()
        return Update({"loss": loss.detach(), "accuracy": accuracy.detach()})

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        with fresh_weights(seed):
            return cls(MLP(2, hidden=())), NoisyOr(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2_000)
    arguments = parser.parse_args()

    check_learner(Logistic)
    print("the contract holds")
    learner, source = Logistic.tiny()
    for clock, update in run(learner, source, arguments.updates):
        if clock.updates % max(arguments.updates // 5, 1) == 0:
            print(f"update {clock.updates}: " + ", ".join(f"{k} {float(v):.3f}" for k, v in update.metrics.items()))


if __name__ == "__main__":
    main()
