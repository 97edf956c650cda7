"""Classifiers and regressors, put together: parts of the data, the model as an agent, results and pictures."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.backbones import CNN, MLP, adam
from agentlib.data import Batches, Dataset, Splits, parts
from agentlib.evaluation import pictures
from agentlib.evaluation.calibration import fit_temperature, logits_of, reliability_diagram, reliability_of
from agentlib.evaluation.generalization import fit_report, generalization
from agentlib.learners.supervised.classifier import Classifier, ClassifierConfig, balanced_weights, cross_entropy
from agentlib.learners.supervised.regressor import Regressor, RegressorConfig, error_of
from agentlib.policies import CategoricalPolicy, Predictor
from agentlib.policies.acting import in_eval_mode
from agentlib.recipes.backbones import BackboneChoice, backbone_for
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, choose_device, fresh_weights
from agentlib.training import Learner

CHUNK = 1024
"""Examples that are evaluated at once."""
EVALUATIONS, CURVE_EXAMPLES = 50, 1000
"""In a run, and on how many training examples at most."""
KNOWN = {
    ("digits", "test/accuracy"): Reference(0.965, "scikit-learn's logistic regression, 10 such splits: .952 to .978"),
    ("breast_cancer", "test/accuracy"): Reference(0.974, "scikit-learn's logistic regression, 10 splits: .953 to .988"),
    ("diabetes", "test/r2"): Reference(0.489, "scikit-learn's ridge regression, 10 such splits: .32 to .58"),
}
"""Measured numbers for data sets that come along."""


def space_of(data: Dataset) -> spaces.Box:
    """Examples as an observation space: images between 0 and 1, other numbers without bounds."""
    is_image = data.x.dim() == 4 and float(data.x.min()) >= 0.0 and float(data.x.max()) <= 1.0
    low, high = (0.0, 1.0) if is_image else (-np.inf, np.inf)
    return spaces.Box(low, high, tuple(data.x.shape[1:]), np.float32)


def network_for(
    space: spaces.Box, backbone: BackboneChoice, net_arch: Sequence[int] | None, normalize: bool
) -> nn.Module:
    """A backbone for examples; "auto" is a small CNN for images `(C, H, W)` of at least 4x4, and an MLP elsewhere."""
    if backbone == "auto" and len(space.shape) == 3 and min(space.shape[1:]) >= 4 and net_arch is None:
        layers: tuple[int | str, ...] = (16, 32, "max", 32)
        while min(space.shape[1:]) >> layers.count("max") > 8:  # down to at most 8x8 maps
            layers = (*layers, "max", 32)
        return CNN(space.shape, layers, feature_dim=64, norm="none")
    if backbone == "auto" and len(space.shape) == 3:
        return MLP(int(np.prod(space.shape)), net_arch if net_arch is not None else (64, 64))
    return backbone_for(space, backbone, net_arch, normalize and len(space.shape) < 3)


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """A model's outputs `(N, ...)` in eval mode, without gradients, in chunks."""
    with in_eval_mode(model):
        return torch.cat([model(chunk)[0] for chunk in x.split(CHUNK)])


def some(data: Dataset, most: int = CURVE_EXAMPLES) -> Dataset:
    """The first examples, at most so many."""
    return data if len(data) <= most else data.take(torch.arange(most))


def on_device(splits: Splits, device: torch.device) -> Splits:
    """The same parts there."""
    moved = [Dataset(p.x.to(device), None if p.y is None else p.y.to(device), p.classes) for p in splits]
    return Splits(*moved)


@dataclasses.dataclass
class History:
    """The losses of a run at its evaluations, for its learning curve."""

    steps: list[int] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)

    def add(self, step: int, train: float, validation: float) -> None:
        """One evaluation."""
        self.steps.append(step)
        self.train.append(train)
        self.validation.append(validation)

    def draw(self, path: Path) -> list[Path]:
        """The curve as a picture, if there is any."""
        if not self.steps:
            return []
        curves: dict[str, Any] = {"training": self.train, "validation": self.validation}
        figure = pictures.lines(
            self.steps, curves, title="Learning curve", x_label="Updates", y_label="Loss", log_y=True
        )
        return [pictures.save(figure, path)]


def prepared(
    problem: Problem,
    splits: Splits,
    make: Callable[[nn.Module], CategoricalPolicy | Predictor],
    backbone: BackboneChoice,
    net_arch: Sequence[int] | None,
    normalize: bool,
    seed: int,
) -> tuple[Any, spaces.Box]:
    """The model, built or a copy of `problem.agent`'s, with the training part's statistics; and its inputs' space."""
    space = space_of(splits.train)
    if len(splits.train.classes) == 1:
        raise ValueError(f"all examples have the label {splits.train.classes[0]}: there is nothing to tell apart")
    if problem.agent is not None:
        if problem.agent.observation_space.shape != space.shape:
            raise ValueError(f"the agent takes {problem.agent.observation_space}, and an example is {space}")
        return copy.deepcopy(problem.agent.policy).requires_grad_(True), space
    with fresh_weights(seed):
        policy = make(network_for(space, backbone, net_arch, normalize)).float()
    policy.observe(splits.train.x)
    return policy, space


def job_for(
    learner: Learner,
    splits: Splits,
    problem: Problem,
    config: Any,
    agent: Agent,
    seed: int,
    **more: Any,
) -> Job:
    """What is the same for all learners from labelled examples."""
    if not isinstance(problem.steps, int) or problem.steps < 1:
        raise ValueError(f"how long? give steps, the number of updates, a whole number, not {problem.steps}")
    source = Batches(splits.train, config.batch_size, seed=seed).to(splits.train.x.device)
    return Job(
        learner=learner,
        source=source,
        updates=problem.steps,
        steps=problem.steps,
        product=lambda: agent,
        gives_result=True,
        objective="eval/loss",
        lower_is_better=True,
        eval_every=max(problem.steps // EVALUATIONS, 1),
        patience=config.patience,
        **more,
    )


def build_classifier(
    config: ClassifierConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A classifier of labelled examples.

    Raises:
        ValueError: the data has no labels, or its parts do not fit.
    """
    splits = parts(problem.data, seed, predict="classes")
    classes = splits.train.classes
    if config.class_weights == "balanced":
        config = dataclasses.replace(config, class_weights=balanced_weights(splits.train.targets, len(classes)))

    def make(network: nn.Module) -> CategoricalPolicy:
        return CategoricalPolicy(network, len(classes))

    policy, space = prepared(problem, splits, make, backbone, config.net_arch, config.normalize, seed)
    place = choose_device(device, policy)
    policy.to(place)
    splits = on_device(splits, place)
    learner = Classifier(policy, adam(config.learning_rate), config)
    agent = Agent(policy, space, spaces.Discrete(len(classes)), about={"classes": list(classes)}, seed=seed)
    history, tables, references = History(), dict[str, Any](), dict[str, Reference]()

    def losses(part: Dataset) -> Tensor:
        return cross_entropy(outputs_of(policy, part.x), part.targets)

    def evaluate() -> dict[str, float]:
        logits, labels = outputs_of(policy, splits.validation.x), splits.validation.targets
        loss = float(cross_entropy(logits, labels).mean())
        history.add(job.source.updates, float(losses(some(splits.train)).mean()), loss)
        return {"eval/loss": loss, "eval/accuracy": float((logits.argmax(1) == labels).double().mean())}

    def finish() -> dict[str, float]:
        measures, found = classification_measures(policy, splits, seed)
        references.update(found | known_references(problem, measures))
        counts = torch.bincount(splits.train.targets, minlength=len(classes)).double() / len(splits.train)
        entropy = float(-torch.xlogy(counts, counts).sum())
        tables["fit"] = str(fit_report(losses(splits.train).cpu(), losses(splits.validation).cpu(), entropy))
        errors = [wrong(policy, part) for part in (splits.train, splits.test)]
        tables["generalization"] = str(generalization(errors[0], errors[1], count_parameters(policy)))
        agent.about["temperature"] = tables["temperature"] = measures["test/temperature"]
        return measures

    def draw(folder: Path) -> list[Path]:
        logits, labels = outputs_of(policy, splits.test.x), splits.test.targets
        both = {"as trained": reliability_of(logits, labels)}
        both[f"T = {tables['temperature']:.2f}"] = reliability_of(logits, labels, tables["temperature"])
        confusion = pictures.confusion_matrix(labels.cpu(), logits.argmax(1).cpu(), classes, "Test examples")
        return [
            pictures.save(reliability_diagram(both, "Reliability on test examples"), folder / "reliability.png"),
            pictures.save(confusion, folder / "confusion.png"),
            *history.draw(folder / "learning_curve.png"),
        ]

    job = job_for(learner, splits, problem, config, agent, seed, evaluate=evaluate, finish=finish,
                  references=references, pictures=draw, tables=tables)  # fmt: skip
    return job


def build_regressor(
    config: RegressorConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A regressor of numbers.

    Raises:
        ValueError: the data has no numbers to predict, or its parts do not fit.
    """
    splits = parts(problem.data, seed, predict="numbers")
    outputs = splits.train.targets.reshape(len(splits.train), -1).shape[1]
    policy, space = prepared(
        problem, splits, lambda net: Predictor(net, outputs), backbone, config.net_arch, config.normalize, seed
    )
    policy.fit_scale(splits.train.targets)
    place = choose_device(device, policy)
    policy.to(place)
    splits = on_device(splits, place)
    learner = Regressor(policy, adam(config.learning_rate), config)
    agent = Agent(policy, space, spaces.Box(-np.inf, np.inf, (outputs,), np.float32), seed=seed)
    history, tables, references = History(), dict[str, Any](), dict[str, Reference]()

    def losses(part: Dataset) -> Tensor:
        prediction = outputs_of(policy, part.x)
        return error_of(prediction / policy.scale, part.targets.reshape(prediction.shape) / policy.scale, config.loss)

    def evaluate() -> dict[str, float]:
        validation = float(losses(splits.validation).mean())
        history.add(job.source.updates, float(losses(some(splits.train)).mean()), validation)
        return {"eval/loss": validation}

    def finish() -> dict[str, float]:
        truth = splits.test.targets.reshape(len(splits.test), -1)
        error = outputs_of(policy, splits.test.x) - truth
        constant = policy.mean - truth
        measures = {
            "test/rmse": float(error.square().mean().sqrt()),
            "test/mae": float(error.abs().mean()),
            "test/r2": 1.0 - float(error.square().sum() / (truth - truth.mean(0)).square().sum()),
        }
        references["test/rmse"] = Reference(float(constant.square().mean().sqrt()), "always the training mean")
        references["test/mae"] = Reference(float(constant.abs().mean()), "always the training mean")
        references.update(known_references(problem, measures))
        always = policy.mean.expand(len(splits.train), -1) / policy.scale
        baseline = float(
            error_of(always, splits.train.targets.reshape(always.shape) / policy.scale, config.loss).mean()
        )
        if baseline > 0.0:
            tables["fit"] = str(fit_report(losses(splits.train).cpu(), losses(splits.validation).cpu(), baseline))
        return measures

    def draw(folder: Path) -> list[Path]:
        truth = splits.test.targets.reshape(len(splits.test), -1).flatten().cpu()
        figure = pictures.predictions(truth, outputs_of(policy, splits.test.x).flatten().cpu(), "Test examples")
        return [pictures.save(figure, folder / "predictions.png"), *history.draw(folder / "learning_curve.png")]

    job = job_for(learner, splits, problem, config, agent, seed, evaluate=evaluate, finish=finish,
                  references=references, pictures=draw, tables=tables)  # fmt: skip
    return job


def classification_measures(
    model: nn.Module, splits: Splits, seed: int
) -> tuple[dict[str, float], dict[str, Reference]]:
    """Accuracy, loss and calibration on the test part, and what to hold them against."""
    logits, labels = logits_of(model, splits.test.x), splits.test.targets
    temperature = fit_temperature(logits_of(model, splits.validation.x), splits.validation.targets)
    measures = {
        "test/accuracy": float((logits.argmax(1) == labels).double().mean()),
        "test/loss": float(cross_entropy(logits, labels).mean()),
        "test/ece": reliability_of(logits, labels).ece,
        "test/ece_after_scaling": reliability_of(logits, labels, temperature).ece,
        "test/temperature": temperature,
        "train/accuracy": 1.0 - float(np.mean(wrong(model, splits.train))),
    }
    counts = torch.bincount(splits.train.targets, minlength=logits.shape[1])
    floor = float((labels == counts.argmax()).double().mean())
    shares = counts.double() / counts.sum()
    references = {
        "test/accuracy": Reference(floor, "always the most frequent class"),
        "test/loss": Reference(float(-shares.log()[labels].mean()), "always the shares of the classes"),
        "test/ece_after_scaling": Reference(
            _noise_floor(logits / temperature, seed), "expected of perfect calibration, with so many examples"
        ),
        "test/temperature": Reference(1.0, "a model as sure as it is right"),
    }
    return measures, references


def _noise_floor(logits: Tensor, seed: int) -> float:
    """The mean ECE if labels were drawn from these very probabilities."""
    generator = torch.Generator(logits.device).manual_seed(seed)
    probabilities = logits.softmax(1)
    drawn = [torch.multinomial(probabilities, 1, generator=generator)[:, 0] for _ in range(20)]
    return float(np.mean([reliability_of(logits, labels).ece for labels in drawn]))


def known_references(problem: Problem, measures: dict[str, float]) -> dict[str, Reference]:
    """Measured numbers for the data set, under the names of the measures."""
    return {name: KNOWN[key, name] for name in measures if (key := problem.key or "", name) in KNOWN}


def wrong(model: nn.Module, part: Dataset) -> np.ndarray[Any, Any]:
    """1 for each example that a model gets wrong, else 0."""
    return (logits_of(model, part.x).argmax(1) != part.targets).double().cpu().numpy()


def count_parameters(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


RECIPES = (
    Recipe(
        "classifier",
        ClassifierConfig,
        build_classifier,
        "softmax classification, from logistic regression to deep networks",
        learns_from="labelled examples",
        needs=("data",),
        steps=2_000,
    ),
    Recipe(
        "regressor",
        RegressorConfig,
        build_regressor,
        "regression of numbers by squared or absolute errors",
        learns_from="examples with numbers to predict",
        needs=("data",),
        steps=2_000,
    ),
)
