"""Learning from labelled examples: parts of the data, the model as an agent, evaluation, results and pictures."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.backbones import WholeSequence
from agentlib.backbones.choice import MEMORIES, space_of
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.core.source import Source
from agentlib.data import Batches, Dataset, Splits, parts
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.calibration import fit_temperature, reliability_of
from agentlib.metrics.classification import classification_measures, regression_measures, shares_of
from agentlib.metrics.generalization import fit_report, generalization
from agentlib.plots import charts, pictures
from agentlib.policies.base import is_policy

EVALUATIONS = 50
"""Evaluations in a run, at most; there are fewer where they would take more than a tenth of its time."""
CURVE_EXAMPLES, EVALUATED = 1_000, 2_000
"""Training and validation examples that each of them looks at, at most; of training ones fewer in short runs."""
JUDGED = 10_000
"""Training and validation examples that the result looks at, at most; of test examples it looks at all."""


class ExampleFacts(NamedTuple):
    """The problem of a learner from examples."""

    train: Dataset
    """The training part, on the CPU."""
    space: spaces.Box
    """Of one example."""

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for numbers."""
        return len(self.train.classes)

    @property
    def n_outputs(self) -> int:
        """Number of numbers to predict."""
        return self.train.targets.reshape(len(self.train), -1).shape[1]


@family("labelled examples", needs=("data",), fields=("batch_size",), methods=("predict", "losses"))
def on_examples(recipe: Recipe, problem: Problem) -> Job:
    """Classification or regression; the learner's attribute `targets` says which."""
    return assembled(recipe, problem, ExamplesJudge)


def assembled(recipe: Recipe, problem: Problem, judge: type[ExamplesJudge]) -> Job:
    """A job on the parts of the data, with a judge of this class.

    Raises:
        ValueError: the data has no such targets, its parts do not fit, or the agent takes other examples.
    """
    targets: Any = getattr(recipe.learner, "targets", "classes")
    splits = parts(problem.data, problem.seed, predict=targets)
    facts = ExampleFacts(splits.train, space_of(splits.train.x))
    if facts.n_classes == 1:
        raise ValueError(f"all examples have the label {splits.train.classes[0]}: there is nothing to tell apart")
    spaces_of = _spaces(problem, facts)
    learner: Any = learner_for(recipe, problem, partial(network, problem, facts.space), facts)
    device = device_of(learner)
    splits = Splits(*(Dataset(p.x.to(device), None if p.y is None else p.y.to(device), p.classes) for p in splits))
    about = {"classes": list(splits.train.classes)} if facts.n_classes else {}
    agent = Agent(getattr(learner, "model", learner.policy), *spaces_of, about=about, seed=problem.seed)
    augmentation = problem.config.augmentation() if hasattr(problem.config, "augmentation") else None
    if augmentation is not None and not augmentation.changes:
        augmentation = None
    source = Batches(splits.train, problem.config.batch_size, transform=augmentation, seed=problem.seed)
    return job_for(problem, learner, source, agent, judge(learner, source, agent, splits, problem))


def network(problem: Problem, space: spaces.Box) -> nn.Module:
    """The problem's network; one with memory reads each example `(T, d)` as a sequence of T steps."""
    shape, is_named = space.shape, isinstance(problem.backbone, str) and problem.backbone in MEMORIES
    if is_named and len(shape) == 2:
        space = spaces.Box(-np.inf, np.inf, shape[1:], np.float32)
    found = network_for(problem, space, memory=is_named)
    is_sequence = getattr(found, "is_sequence", False) and not is_policy(found)
    return WholeSequence(found) if is_sequence and len(shape) == 2 else found


def _spaces(problem: Problem, facts: ExampleFacts) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """The spaces of the model as an agent; those of the agent that it starts from."""
    n = facts.n_classes
    if problem.agent is None:
        return facts.space, spaces.Discrete(n) if n else spaces.Box(-np.inf, np.inf, (facts.n_outputs,), np.float32)
    seen, done = problem.agent.observation_space, problem.agent.action_space
    if seen.shape != facts.space.shape:
        raise ValueError(f"the agent takes {seen}, and an example is {facts.space}")
    if n and (not isinstance(done, spaces.Discrete) or done.n != n):
        raise ValueError(f"the agent acts in {done}, and the data has {n} classes")
    return seen, done


class ExamplesJudge(Judge):
    """Losses on held-out examples while training; accuracy and calibration, or errors, on the test part."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(self, learner: Any, source: Source, agent: Agent, splits: Splits, problem: Problem) -> None:
        super().__init__()
        self.learner, self.source, self.agent, self.splits, self.seed = learner, source, agent, splits, problem.seed
        self.patience = getattr(problem.config, "patience", None)
        # By the passes through the network, of which an update needs three for each example, an evaluation is to take a
        # tenth of the time at most; the curve of the training loss, which decides nothing, only a part of that.
        batch, fewest = problem.config.batch_size, min(EVALUATED, len(splits.validation)) + 100
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, math.ceil(fewest / (0.25 * batch)))
        self.curve_examples = min(CURVE_EXAMPLES, max(self.eval_every * batch // 20, 100))
        self.classes = splits.train.classes
        self.curve, self.evaluated = splits.train.sampled(self.curve_examples), splits.validation.sampled(EVALUATED)
        self.judged = Splits(splits.train.sampled(JUDGED), splits.validation.sampled(JUDGED), splits.test)
        self.test_outputs: Tensor | None = None

    def evaluate(self) -> dict[str, float]:
        y, outputs = self.evaluated.targets, predicted(self.learner, self.evaluated.x)
        scores = {"eval/loss": float(self.learner.losses(outputs, y).mean())}
        if self.classes:
            scores["eval/accuracy"] = float((outputs.argmax(1) == y).double().mean())
        self.note_losses(float(self.losses(self.curve).mean()), scores["eval/loss"])
        return scores

    def note_losses(self, training: float, validation: float) -> None:
        """Adds one evaluation to the learning curve."""
        self.note(self.source.updates, "training", training)
        self.note(self.source.updates, "validation", validation)

    def losses(self, part: Dataset) -> Tensor:
        """The plain loss of each example, `(N,)`."""
        found: Tensor = self.learner.losses(predicted(self.learner, part.x), part.targets)
        return found

    def finish(self) -> list[Measure]:
        return self.classification() if self.classes else self.regression()

    def classification(self) -> list[Measure]:
        """Measures of a classifier; its temperature goes into the agent's file."""
        labels = [part.targets for part in self.judged]
        logits = [predicted(self.learner, part.x) for part in self.judged]
        self.test_outputs = logits[2]
        right = [(one.argmax(1) == y).double() for one, y in zip(logits, labels, strict=True)]
        losses = [self.learner.losses(one, y) for one, y in zip(logits, labels, strict=True)]
        shares, temperature = shares_of(labels[0], len(self.classes)), fit_temperature(logits[1], labels[1])
        entropy = float(-torch.xlogy(shares, shares).sum())
        trained = sum(p.numel() for p in self.learner.policy.parameters() if p.requires_grad)
        self.agent.about["temperature"] = self.facts["temperature"] = temperature
        self.facts["fit"] = str(fit_report(losses[0].cpu(), losses[1].cpu(), entropy))
        self.facts["generalization"] = str(generalization(1.0 - right[0].cpu(), 1.0 - right[2].cpu(), trained))
        measures = classification_measures(logits[2], labels[2], shares, temperature, self.seed)
        return [*measures, Measure("train/accuracy", float(right[0].mean()))]

    def regression(self) -> list[Measure]:
        """Measures of a regression."""
        train, validation, test = self.judged
        prediction = self.test_outputs = predicted(self.learner, test.x)
        mean = train.targets.reshape(len(train), -1).mean(0)
        baseline = float(self.learner.losses(mean.expand(len(train), -1), train.targets).mean())
        if baseline > 0.0:
            self.facts["fit"] = str(fit_report(self.losses(train).cpu(), self.losses(validation).cpu(), baseline))
        return regression_measures(prediction, test.targets.reshape(prediction.shape), mean)

    def draw(self, folder: Path) -> list[Path]:
        figures, title = {}, "Test examples"
        assert self.test_outputs is not None, "pictures are drawn of a finished run"
        outputs, labels = self.test_outputs.cpu(), self.splits.test.targets.cpu()
        if self.classes:
            temperatures = {"as trained": 1.0, f"T = {self.facts['temperature']:.2f}": self.facts["temperature"]}
            models = {name: reliability_of(outputs, labels, value) for name, value in temperatures.items()}
            figures["reliability"] = charts.reliability_diagram(models, "Reliability on test examples")
            figures["confusion"] = pictures.confusion_matrix(labels, outputs.argmax(1), self.classes, title)
        else:
            figures["predictions"] = pictures.predictions(labels.flatten(), outputs.flatten(), title)
        if "training" in self.curves:
            steps, _ = self.curves["training"]
            curves: Any = {name: self.curves[name][1] for name in ("training", "validation")}
            axes: Any = {"x_label": "Updates", "y_label": "Loss", "log_y": True}
            figures["learning_curve"] = pictures.lines(steps, curves, title="Learning curve", **axes)
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
