"""Learning from several domains, judged on those that are targets.

Each source keeps a fifth of its examples for validation, by which a run is stopped and settings are chosen: nothing is
chosen on a target (Gulrajani and Lopez-Paz 2021, arXiv:2007.01434). A target gives half of its examples, without
labels, to those that adapt, and is judged on the other half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.agent import Agent
from agentlib.backbones.choice import space_of
from agentlib.core.config import Count, Whole
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data.augmentation import Augmentation
from agentlib.data.datasets import Dataset, split
from agentlib.data.domains import Balance, DomainBatches, domains
from agentlib.families.augmented import Augmented
from agentlib.families.building import device_of, in_chunks, job_for, learner_for, network_for, predicted
from agentlib.plots import charts, pictures

EVALUATIONS, EVALUATED = 20, 1_000
"""Evaluations in a run, and validation examples of each source that they look at, at most."""


@dataclass(frozen=True, kw_only=True)
class AcrossDomains(Augmented):
    """The common fields of the configs of learners from domains."""

    batch_size: Count = 128
    """Examples per update, of all sources together."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; the default depends on the kind of input."""
    normalize: bool = False
    """Standardize vectors by mean and deviation of the training part; pictures stay between 0 and 1."""
    target: str | None = None
    """The domain to be judged on, and not to learn from; the default are those that the data names."""
    balance: Balance = "domains"
    """Draw as many examples of each domain, of each class of each domain ("groups"), or all "examples" alike."""
    target_labels: Whole = 0
    """Labelled examples of each class of the target to learn from, as one more source."""
    patience: Count | None = None
    """Evaluations on the sources' validation parts (20 per run) without a smaller loss before the run stops."""


class DomainFacts(NamedTuple):
    """The problem of a learner from domains."""

    train: Dataset
    """The training parts of all sources."""
    domain: Tensor
    """The number of the source of each example, `(N,)`."""
    n_domains: int
    """Number of sources."""
    target_x: Tensor
    """Examples of the targets without labels, `(M, ...)`."""
    space: spaces.Box
    """Of one example."""


@family("domains", needs=("data",), fields=("batch_size", "balance"), methods=("predict", "losses"))
def on_domains(recipe: Recipe, problem: Problem) -> Job:
    """Classification from several domains. A learner with `adapts` gets examples of the targets without labels.

    One with `adapted(x)` gives the policy that is judged on examples x of a domain.

    Raises:
        ValueError: what `agentlib.data.domains.domains` raises; targets where nothing is left to learn from; or
            labels of a target that it does not have.
    """
    config, data = problem.config, domains(problem.data)
    data = data if config.target is None else data.leave_out(config.target)
    if problem.agent is not None:
        raise ValueError("learning from domains begins with new weights: leave out agent=")
    if config.target_labels and not data.targets:
        raise ValueError(f"target_labels={config.target_labels} are of a target, and there is none: give target=")
    seed = problem.seed if data.seed is None else data.seed
    splits = {name: split(data.parts[name], seed, validation=0.2, test=0.0) for name in data.sources}
    train = {name: part.train for name, part in splits.items()}
    held = {name: part.validation for name, part in splits.items()}
    tests, unlabelled = {}, []
    for name in data.targets:
        part = split(data.parts[name], seed, validation=0.0, test=0.5)
        tests[name] = part.test
        unlabelled.append(part.train.x)
        if config.target_labels:
            train[name] = _few(part.train, config.target_labels, seed)
    pooled = Dataset(
        torch.cat([part.x for part in train.values()]),
        torch.cat([part.targets for part in train.values()]),
        next(iter(train.values())).classes,
    )
    number = torch.repeat_interleave(torch.arange(len(train)), torch.tensor([len(part) for part in train.values()]))
    target_x = torch.cat(unlabelled) if unlabelled else pooled.x[:0]
    facts = DomainFacts(pooled, number, len(train), target_x, space_of(pooled.x))
    learner: Any = learner_for(recipe, problem, partial(network_for, problem, facts.space), facts)
    augmentation: Augmentation = config.augmentation()
    source = DomainBatches(
        pooled,
        number,
        target_x if learner.adapts else target_x[:0],
        config.batch_size,
        balance=config.balance,
        transform=augmentation if augmentation.changes else None,
        seed=problem.seed,
    )
    classes = list(pooled.classes)
    agent = Agent(learner.policy, facts.space, spaces.Discrete(len(classes)), about={"classes": classes})
    return job_for(problem, learner, source, agent, DomainsJudge(learner, source, held, tests, problem))


def _few(part: Dataset, per_class: int, seed: int) -> Dataset:
    """The first examples of each class, in a random order."""
    order = np.random.default_rng([seed, 7]).permutation(len(part))
    labels = part.targets.numpy()[order]
    fewest = int(np.bincount(labels, minlength=len(part.classes)).min())
    if fewest < per_class:
        raise ValueError(f"target_labels={per_class} are more than the {fewest} of a class that a target has to give")
    rows = np.concatenate([order[labels == label][:per_class] for label in range(len(part.classes))])
    return part.take(rows)


class DomainsJudge(Judge):
    """Losses on the sources' validation parts while training; at the end the accuracy in each domain, and group."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(
        self,
        learner: Any,
        source: DomainBatches,
        held: dict[str, Dataset],
        tests: dict[str, Dataset],
        problem: Problem,
    ) -> None:
        super().__init__()
        self.learner, self.source, self.tests = learner, source, tests
        device = device_of(learner)
        self.held, self.tests = (
            {name: replace(part, x=part.x.to(device), y=part.targets.to(device)) for name, part in parts.items()}
            for parts in (held, tests)
        )
        self.patience = problem.config.patience
        looked = sum(min(EVALUATED, len(part)) for part in held.values())
        self.eval_every = max(
            int(problem.steps or 1) // EVALUATIONS, math.ceil(looked / (0.25 * problem.config.batch_size))
        )
        self.accuracies: dict[str, float] = {}

    def evaluate(self) -> dict[str, float]:
        losses, rights = [], []
        for part in self.held.values():
            x, y = part.x[:EVALUATED], part.targets[:EVALUATED]
            outputs = predicted(self.learner, x)
            losses.append(float(self.learner.losses(outputs, y).mean()))
            rights.append(float((outputs.argmax(1) == y).double().mean()))
        self.note(self.source.updates, "validation", float(np.mean(losses)))
        return {
            "eval/loss": float(np.mean(losses)),
            "eval/accuracy": float(np.mean(rights)),
            "eval/worst_domain": min(rights),
        }

    def finish(self) -> list[Measure]:
        """Of a domain, the accuracy; of all sources and all targets, that of the worst class of the worst domain.

        What adapts while it is used is adapted by the examples of the domain, without labels.
        """
        measures = []
        for kind, parts in (("validation", self.held), ("test", self.tests)):
            groups = []
            for name, part in parts.items():
                right = (self._adapted(part.x).argmax(1) == part.targets).double()
                groups += [float(right[part.targets == label].mean()) for label in part.targets.unique()]
                self.accuracies[f"{kind}/{name}"] = float(right.mean())
                measures.append(Measure(f"{kind}/{name}", float(right.mean())))
            if groups:
                measures.append(Measure(f"{kind}/worst_group", min(groups)))
        return measures

    def _adapted(self, x: Tensor) -> Tensor:
        if not hasattr(self.learner, "adapted"):
            return predicted(self.learner, x)
        policy = self.learner.adapted(x)
        return in_chunks(policy, lambda part: policy(part)[0], x)

    def draw(self, folder: Path) -> list[Path]:
        tests = [name for name in self.accuracies if name.startswith("test/")]
        figure = charts.bars(self.accuracies, "Accuracy by domain; targets in colour", "accuracy", tests)
        return [pictures.save(figure, folder / "domains.png")]
