"""Learning from a stream of tasks, judged on all of them each time that one is over.

A labelled data set is cut into tasks, by its classes or by orders of its numbers. The model has one output for each
class and is not told which task an example is from. Nothing is chosen by the test parts, which all accuracies are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones import Optimized
from agentlib.backbones.choice import space_of
from agentlib.core.config import Range, Whole
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data import Dataset, parts
from agentlib.data.streams import Kind, Stream, stream_of
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.continual import average_accuracy, backward_transfer, forgetting, forward_transfer
from agentlib.plots import pictures

EVALUATED = 2_000
"""Test examples of each task that are looked at each time that a task is over, at most."""


@dataclass(frozen=True, kw_only=True)
class Streamed(Optimized):
    """The common fields of the configs of learners from a stream of tasks."""

    stream: Kind = "split"
    """The tasks of a data set: "split" gives each some classes, "permuted" an order of its own of the numbers."""
    tasks: Annotated[int, Range(2)] = 5
    """Number of tasks; they share the updates of the run."""
    memory: Whole = 20
    """Examples of each class of a task that are remembered, and make half of each later batch; 0 remembers none."""
    batch_size: Annotated[int, Range(2)] = 64
    """Examples per update."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; the default depends on the kind of input."""


class StreamFacts(NamedTuple):
    """The problem of a learner from a stream."""

    space: spaces.Box
    """Of one example."""
    classes: tuple[str, ...]
    tasks: tuple[Dataset, ...]
    """The training parts."""
    task_updates: int
    """Updates of each task."""


@family("a stream of tasks", needs=("data",), fields=("batch_size", "memory"), methods=("predict",))
def on_streams(recipe: Recipe, problem: Problem) -> Job:
    """Classification of one task after the other.

    The config has the fields of `Streamed`; `learner.policy` is the product.

    Raises:
        ValueError: unlabelled data, more tasks than the classes allow, or than the run has updates.
    """
    config, steps = problem.config, int(problem.steps or 1)
    splits = parts(problem.data, problem.seed, validation=0.0, predict="classes")
    if steps < config.tasks:
        raise ValueError(f"{steps} updates are too few for {config.tasks} tasks: give more steps, or fewer tasks")
    train, test = (stream_of(one, config.stream, config.tasks, problem.seed) for one in (splits.train, splits.test))
    facts = StreamFacts(space_of(splits.train.x), splits.train.classes, tuple(train), steps // config.tasks)
    learner: Any = learner_for(recipe, problem, partial(network_for, problem, facts.space), facts)
    source = Stream(train, config.batch_size, facts.task_updates, config.memory, problem.seed)
    about = {"classes": list(facts.classes)}
    agent = Agent(learner.policy, facts.space, spaces.Discrete(len(facts.classes)), about=about, seed=problem.seed)
    return job_for(problem, learner, source, agent, StreamJudge(learner, source, test))


class StreamJudge(Judge):
    """The accuracy on each task whenever one is over, and what that says of forgetting and of transfer."""

    def __init__(self, learner: Any, source: Stream, test: list[Dataset]) -> None:
        super().__init__()
        self.learner, self.source, self.test = learner, source, [task.sampled(EVALUATED) for task in test]
        self.before = self.accuracies()
        self.matrix = np.zeros((0, len(test)))
        source.ended = self.note_task

    def accuracies(self) -> list[float]:
        """The accuracy on each task now."""
        device = device_of(self.learner)
        outputs = [predicted(self.learner, task.x.to(device)).argmax(1).cpu() for task in self.test]
        return [float((y == task.targets).double().mean()) for y, task in zip(outputs, self.test, strict=True)]

    def note_task(self) -> None:
        """Keeps the accuracies at the end of a task; with the curves, they are in the checkpoints of the run."""
        for number, accuracy in enumerate(self.accuracies(), 1):
            self.note(self.source.updates, f"task {number}", accuracy)

    def finish(self) -> list[Measure]:
        ended = [self.curves.get(f"task {number}", [[], []])[1] for number in range(1, len(self.test) + 1)]
        self.matrix = np.array([*zip(*ended, strict=True), self.accuracies()])
        self.facts["accuracies"] = self.matrix.tolist()
        found = {}
        if len(self.matrix) == len(self.test):  # a run that was stopped has not seen all tasks
            found = {"forgetting": forgetting(self.matrix), "backward_transfer": backward_transfer(self.matrix)}
            found["forward_transfer"] = forward_transfer(self.matrix, self.before)
        each = {f"accuracy_of_task_{number}": float(value) for number, value in enumerate(self.matrix[-1], 1)}
        untrained = float(np.mean(self.before))
        first = Measure("test/average_accuracy", average_accuracy(self.matrix), untrained, "before any learning")
        return [first, *[Measure(f"test/{name}", value) for name, value in (found | each).items()]]

    def draw(self, folder: Path) -> list[Path]:
        curves: dict[str, Any] = {f"task {number}": row for number, row in enumerate(self.matrix.T, 1)}
        axes: Any = {"title": "Accuracy on each task", "x_label": "tasks learned", "y_label": "accuracy"}
        figure = pictures.lines(range(1, len(self.matrix) + 1), curves, **axes)
        return [pictures.save(figure, folder / "stream.png")]
