"""Adversarial training, put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.backbones import adam
from agentlib.data import Dataset, Splits, parts
from agentlib.evaluation import pictures
from agentlib.evaluation.calibration import logits_of
from agentlib.evaluation.robustness import accuracy_curve, robust_accuracy
from agentlib.learners.robustness.adversarial_training import AdversarialTraining, AdversarialTrainingConfig
from agentlib.learners.robustness.attacks import attack
from agentlib.learners.robustness.norms import check_scale
from agentlib.learners.supervised.classifier import cross_entropy
from agentlib.policies import CategoricalPolicy
from agentlib.recipes.backbones import BackboneChoice
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, choose_device
from agentlib.recipes.supervised import (
    History,
    classification_measures,
    job_for,
    known_references,
    on_device,
    prepared,
    some,
)

EVALUATION_STEPS = 10
"""Of PGD on the validation part, during the run."""
TEST_STEPS, STRONG_STEPS, RESTARTS = 20, 50, 3
"""Of PGD on the test part; the second is with restarts, and should find few errors that the first did not."""
STANDARD = {0.15: Reference(0.157, "the same network, trained without attacks; 5 seeds: .119 to .187")}
"""Robust accuracy of standard training on the digits, l-infinity, by epsilon."""


@dataclass
class _UnderAttack:
    """How a model does on parts of the data, with attacks and without."""

    model: nn.Module
    config: AdversarialTrainingConfig
    splits: Splits
    scale: Tensor
    """What one unit of epsilon is."""
    seed: int
    history: History = field(default_factory=History)
    tables: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What all attacks of measures have in common."""
        return {"norm": self.config.norm, "bounds": self.config.bounds, "scale": self.scale, "seed": self.seed}

    def attacked(self, part: Dataset) -> Tensor:
        """The examples of a part, changed by PGD."""
        config, generator = self.config, torch.Generator(self.scale.device).manual_seed(self.seed)
        return attack(self.model, part.x, part.targets, epsilon=config.epsilon, norm=config.norm,
                      steps=EVALUATION_STEPS, bounds=config.bounds, scale=self.scale, generator=generator)  # fmt: skip

    def evaluate(self, updates: int) -> dict[str, float]:
        """Losses under attack, for the learning curve, and accuracies on the validation part."""
        validation, losses = self.splits.validation, []
        for part in (some(self.splits.train, 500), validation):
            logits = logits_of(self.model, self.attacked(part))
            losses.append(float(cross_entropy(logits, part.targets).mean()))
        self.history.add(updates, *losses)
        robust = (logits.argmax(1) == validation.targets).double().mean()
        clean = (logits_of(self.model, validation.x).argmax(1) == validation.targets).double().mean()
        return {"eval/loss": losses[1], "eval/robust_accuracy": float(robust), "eval/accuracy": float(clean)}

    def finish(self, problem: Problem) -> dict[str, float]:
        """Accuracies on the test part, and what others reach there."""
        clean, found = classification_measures(self.model, self.splits, self.seed)
        measure = partial(
            robust_accuracy,
            self.model,
            self.splits.test.x,
            self.splits.test.targets,
            epsilon=self.config.epsilon,
            **self.settings,
        )
        measures = {
            "test/robust_accuracy": measure(steps=TEST_STEPS),
            f"test/robust_accuracy_{STRONG_STEPS}x{RESTARTS}": measure(steps=STRONG_STEPS, restarts=RESTARTS),
            "test/accuracy": clean["test/accuracy"],
        }
        self.references.update({name: found[name] for name in measures if name in found})
        self.references.update(known_references(problem, measures))
        if problem.key == "digits" and self.config.norm == "linf" and self.config.epsilon in STANDARD:
            self.references["test/robust_accuracy"] = STANDARD[self.config.epsilon]
        return measures

    def draw(self, folder: Path) -> list[Path]:
        """Accuracy by the size of the attack, and the learning curve."""
        config, test = self.config, self.splits.test
        epsilons = [config.epsilon * share for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)]
        curve = accuracy_curve(self.model, test.x, test.targets, epsilons, steps=TEST_STEPS, **self.settings)
        self.tables["accuracy_by_epsilon"] = {f"{epsilon:g}": accuracy for epsilon, accuracy in curve.items()}
        figure = pictures.lines(
            list(curve), {f"PGD-{TEST_STEPS}": list(curve.values())},
            title=f"Test accuracy under attack ({config.norm}), trained at {config.epsilon:g}",
            x_label="Epsilon", y_label="Accuracy",
        )  # fmt: skip
        return [pictures.save(figure, folder / "robustness.png"), *self.history.draw(folder / "learning_curve.png")]


def build_adversarial(
    config: AdversarialTrainingConfig,
    problem: Problem,
    backbone: BackboneChoice,
    device: str | torch.device,
    seed: int,
) -> Job:
    """Adversarial training of a classifier, or of `problem.agent` on its observations and actions.

    Epsilon is in the scale of the data; of data without bounds, in standard deviations of each number.

    Raises:
        ValueError: the data has no labels, its parts do not fit, or epsilon is in another scale.
    """
    splits = parts(problem.data, seed, predict="classes")
    classes = splits.train.classes
    for part in splits:
        if config.bounds is not None:
            check_scale(part.x, config.epsilon, config.norm, config.bounds)

    def make(network: nn.Module) -> CategoricalPolicy:
        return CategoricalPolicy(network, len(classes))

    policy, space = prepared(problem, splits, make, backbone, config.net_arch, config.bounds is None, seed)
    place = choose_device(device, policy)
    policy.to(place)
    splits = on_device(splits, place)
    scale = splits.train.x.std(0) if config.bounds is None else torch.ones((), device=place)
    learner = AdversarialTraining(policy, adam(config.learning_rate), config, scale)
    observation_space: Any = space
    action_space: Any = spaces.Discrete(len(classes))
    if problem.agent is not None:
        observation_space, action_space = problem.agent.observation_space, problem.agent.action_space
        if not isinstance(action_space, spaces.Discrete) or action_space.n != len(classes):
            raise ValueError(f"the agent acts in {action_space}, and the data has {len(classes)} classes")
    about = {"classes": list(classes), "epsilon": config.epsilon, "norm": config.norm}
    agent = Agent(learner.model, observation_space, action_space, about=about, seed=seed)
    under = _UnderAttack(learner.model, config, splits, scale, seed)
    job: Job = job_for(learner, splits, problem, config, agent, seed,
                       evaluate=lambda: under.evaluate(job.source.updates), finish=lambda: under.finish(problem),
                       references=under.references, pictures=under.draw, tables=under.tables)  # fmt: skip
    job.eval_every = max(job.steps // 20, 1)  # an evaluation is itself an attack
    return job


RECIPES = (
    Recipe(
        "adversarial",
        AdversarialTrainingConfig,
        build_adversarial,
        "a classifier that withstands attacks (Madry et al. 2018)",
        learns_from="labelled examples",
        needs=("data",),
        steps=2_000,
    ),
)
