"""Learning from labelled examples under attack: evaluated, and judged, by accuracy under PGD."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentlib.agent import Agent
from agentlib.core.recipe import Job, Measure, Problem, Recipe, family
from agentlib.core.source import Source
from agentlib.data import Dataset, Splits
from agentlib.families.building import predicted
from agentlib.families.examples import EVALUATED, ExamplesJudge, assembled
from agentlib.metrics.attacks import attack, loss_name
from agentlib.metrics.norms import check_scale
from agentlib.metrics.robustness import accuracy_curve, robust_accuracy
from agentlib.plots import pictures

EVALUATIONS = 20
"""Evaluations in a run, at most; each one is itself an attack."""
CURVE_EXAMPLES, ATTACKED, EVALUATION_STEPS = 250, 500, 10
"""Training and validation examples that each of them attacks, at most, and steps of PGD."""
TEST_STEPS, STRONG_STEPS, RESTARTS = 20, 50, 3
"""Of PGD on the test part; the second is with restarts, and should find few errors that the first did not."""


@family("labelled examples", needs=("data",))
def on_attacked(recipe: Recipe, problem: Problem) -> Job:
    """Classification that withstands attacks, or the same of an agent on its observations and actions.

    The config has the fields epsilon and norm and the property bounds, the learner the buffer scale.

    Raises:
        ValueError: the data has no labels, its parts do not fit, or epsilon is in another scale.
    """
    return assembled(recipe, problem, AttackedJudge)


class AttackedJudge(ExamplesJudge):
    """Losses and accuracies under attack, beside those without."""

    def __init__(self, learner: Any, source: Source, agent: Agent, splits: Splits, problem: Problem) -> None:
        super().__init__(learner, source, agent, splits, problem)
        config = problem.config
        for part in splits[1:]:  # `build` has seen the first
            if config.bounds is not None:
                check_scale(part.x, config.epsilon, config.norm, config.bounds)
        self.agent.about |= {"epsilon": config.epsilon, "norm": config.norm}
        looked = min(CURVE_EXAMPLES, len(splits.train)) + min(ATTACKED, len(splits.validation))
        # In updates, by the passes through the network; measured it is two thirds of this, since it has larger batches.
        # An evaluation is to take a tenth of the time at most.
        cost = looked * (EVALUATION_STEPS + 1) / (config.batch_size * (getattr(config, "attack_steps", 0) + 1))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, math.ceil(7 * cost))
        self.attacked_train, self.attacked = splits.train.sampled(CURVE_EXAMPLES), splits.validation.sampled(ATTACKED)
        self.model, self.epsilon = self.agent.policy, config.epsilon
        self.ball: dict[str, Any] = {"norm": config.norm, "bounds": config.bounds, "scale": self.learner.scale}
        self.ball["loss"] = loss = getattr(config, "attack_loss", None)
        self.facts["attack_loss"] = loss_name(self.model, loss)

    def evaluate(self) -> dict[str, float]:
        training, _ = self.under_attack(self.attacked_train)
        loss, robust = self.under_attack(self.attacked)
        self.note_losses(training, loss)
        accuracy = (predicted(self.learner, self.evaluated.x).argmax(1) == self.evaluated.targets).double().mean()
        return {"eval/loss": loss, "eval/robust_accuracy": robust, "eval/accuracy": float(accuracy)}

    def under_attack(self, part: Dataset) -> tuple[float, float]:
        """Mean loss and accuracy on the examples of a part, changed by PGD."""
        x, y = part.x, part.targets
        how: Any = {"epsilon": self.epsilon, "steps": EVALUATION_STEPS, **self.ball}
        changed = attack(self.model, x, y, generator=torch.Generator(x.device).manual_seed(self.seed), **how)
        logits: Tensor = predicted(self.learner, changed)
        return float(self.learner.losses(logits, y).mean()), float((logits.argmax(1) == y).double().mean())

    def finish(self) -> list[Measure]:
        test = self.splits.test
        how: Any = {"epsilon": self.epsilon, "seed": self.seed, **self.ball}
        robust = partial(robust_accuracy, self.model, test.x, test.targets, **how)
        strong = Measure(
            f"test/robust_accuracy_{STRONG_STEPS}x{RESTARTS}", robust(steps=STRONG_STEPS, restarts=RESTARTS)
        )
        return [Measure("test/robust_accuracy", robust(steps=TEST_STEPS)), strong, *super().finish()]

    def draw(self, folder: Path) -> list[Path]:
        epsilons = [self.epsilon * share for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)]
        test = self.splits.test.sampled(EVALUATED)
        curve = accuracy_curve(
            self.model, test.x, test.targets, epsilons, steps=TEST_STEPS, seed=self.seed, **self.ball
        )
        self.facts["accuracy_by_epsilon"] = {f"{epsilon:g}": accuracy for epsilon, accuracy in curve.items()}
        title = f"Test accuracy under attack ({self.ball['norm']}), trained at {self.epsilon:g}"
        curves: Any = {f"PGD-{TEST_STEPS}": list(curve.values())}
        figure = pictures.lines(list(curve), curves, title=title, x_label="Epsilon", y_label="Accuracy")
        return [pictures.save(figure, folder / "robustness.png"), *super().draw(folder)]
