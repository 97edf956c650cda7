"""Learning to learn: tasks of regression or of classes, and how well new tasks are learned from few examples.

    accuracy = share of the queries of new classes whose prediction, given a few examples of each class, is right

Its floor is the nearest mean of raw pixels; that of regression the best guess that does not know the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agentlib.backbones import Optimized
from agentlib.backbones.choice import space_of
from agentlib.core.config import Count, Range, Unit
from agentlib.core.modes import in_eval_mode
from agentlib.core.progress import watched
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.core.trees import mapped
from agentlib.data import TASKS, Dataset, Episodes, Pools, Tasks, dataset, split_classes
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.targets import numbers_for
from agentlib.plots import charts, pictures
from agentlib.policies.base import require_no_memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 2**20
"""Of the new tasks; those of training have the run's seed."""
STEPS = 10
"""Steps of adapting after which a result is judged, at most."""
REGRESSIONS, POINTS = 1_000, 100
"""New tasks of regression, and points of each to predict."""
EPISODES, QUERIES, CHUNK = 600, 5, 20
"""New tasks of classes, examples of each class to predict, and tasks that are judged at once."""
WITHOUT_TASK, MEAN = "the best guess that does not know the task", "the mean target in training"


@dataclass(frozen=True, kw_only=True)
class FewShot(Optimized):
    """The common fields of the configs of learners from tasks."""

    ways: Annotated[int, Range(2)] = 5
    """Classes per task, for tasks of classification."""
    shots: Count = 1
    """Examples per task, or per class of a task, to learn it from."""
    queries: Count = 5
    """Other examples per task, or per class of a task, to predict."""
    held_out: Unit = 0.2
    """Share of the classes, or of tasks of your own, that is held out of training, for the result."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; the default depends on the kind of input."""


class TaskFacts(NamedTuple):
    """The problem of a learner from tasks."""

    ways: int
    """Classes per task; 0 for tasks of regression."""
    space: spaces.Box
    """Of one example."""
    outputs: int = 1
    """Numbers to predict, in tasks of regression."""


@family("tasks, such as sinusoids, or data with many classes", needs=("data",), makes_agent=False)
def on_tasks(recipe: Recipe, problem: Problem) -> Job:
    """Learning from tasks: a family of `TASKS` by its name, tasks of your own as `Pools`, or classes of a data set.

    The config has the fields of `FewShot`. `learner.network` is the product and has a `backbone`. The learner is judged
    by `predictions(tasks, steps)`, the outputs `(steps + 1, tasks, n, k)` for the queries after 0, 1, ... steps of
    adapting; without that by `predict(x)`, features of single examples, and `classify(tasks)`, the logits
    `(tasks, n, ways)` for tasks of such features, of any number of ways and shots. With `remembers` its network has
    memory, and reads the target of the example before; `axis` names what is counted in place of steps.

    Raises:
        ValueError: unknown or unlabelled data, or too few classes, tasks or examples.
    """
    config, seed, pools = problem.config, problem.seed, problem.data
    new: Any = TASKS.get(problem.data) if isinstance(problem.data, str) else None
    if new is not None:
        facts = TaskFacts(0, space_of(torch.zeros(1, 1)))
        source_of: Any = partial(new, config.batch_size, config.shots, config.queries, seed)
    elif isinstance(pools, Pools):
        if not hasattr(recipe.learner, "predictions"):
            raise ValueError(f"{recipe.name} learns from the classes of a data set, and not from Pools: maml does")
        own, new = pools.parted(round(config.held_out * len(pools.x)), seed)
        facts = TaskFacts(pools.ways, space_of(pools.x.flatten(0, 1)), pools.y[0, 0].numel())
        ways = {"ways": pools.ways} if pools.ways else {}
        config = replace(config, shots=pools.shots, queries=pools.queries, batch_size=own.tasks, **ways)
        problem = replace(problem, config=config)
        source_of = lambda: own  # noqa: E731
    else:
        data = dataset(problem.data)
        known, new = split_classes(data, round(config.held_out * len(data.classes)))
        facts = TaskFacts(config.ways, space_of(known.x))
        source_of = partial(Episodes, known, config.ways, config.shots, config.queries, config.batch_size, seed)
    remembers = getattr(recipe.learner, "remembers", False)  # what its network gets as an agent's last action
    numbers = spaces.Box(-np.inf, np.inf, (facts.outputs,), np.float32)
    target = (spaces.Discrete(facts.ways) if facts.ways else numbers) if remembers else None
    network = partial(network_for, problem, facts.space, target, remembers)
    learner: Any = learner_for(recipe, problem, network, facts)
    if not remembers:
        require_no_memory(learner.network.backbone, recipe.name)
    source = source_of()
    return job_for(problem, learner, source, learner.network, TasksJudge(learner, source, config, new))


def episodes_of(
    data: Dataset, ways: int, shots: int, queries: int = QUERIES, count: int | None = None, device: Any = "cpu"
) -> Iterator[Tasks]:
    """Batches of new tasks, of CHUNK tasks each, EPISODES in all by default; the same ones at each call."""
    source = Episodes(data, ways, shots, queries, CHUNK, SEED).to(device)
    for _ in watched(range((count or EPISODES) // CHUNK), "new tasks"):
        source.advance()
        yield source.sample()


def accuracies(classify: Callable[[Tasks], Tensor], batches: Iterable[Tasks]) -> NDArray[np.float64]:
    """The accuracy of logits `(tasks, n, ways)` on the queries of each task, `(all tasks,)`."""
    right = [classify(tasks).argmax(-1) == tasks.query.y for tasks in batches]
    return torch.cat(right).double().mean(1).cpu().numpy()


def nearest_mean(tasks: Tasks) -> Tensor:
    """Logits `(tasks, n, ways)` of the queries: minus the distance to the mean of each class's examples."""
    labels, x = functional.one_hot(tasks.support.y).float(), tasks.support.x.flatten(2).float()
    means = labels.mT @ x / labels.sum(1)[..., None]  # (tasks, ways, d)
    return -torch.cdist(tasks.query.x.flatten(2).float(), means)


class TasksJudge(Judge):
    """Tasks that training did not see: errors or accuracies by steps of adapting, or accuracies by ways and shots.

    `new` has examples of classes that are held out, or is a family of tasks of regression, or has held-out tasks.
    """

    def __init__(self, learner: Any, source: Any, config: Any, new: Any) -> None:
        super().__init__()
        self.learner, self.config, self.new = learner, config, new
        self.is_regression = not isinstance(new, Dataset) and not getattr(new, "ways", 0)
        self.guess: Any = getattr(new, "task_agnostic", None)
        self.guessed = WITHOUT_TASK
        if isinstance(new, Pools):
            mean = source.y.double().mean((0, 1)).flatten()  # (k,)
            self.guess, self.guessed = lambda x: mean.to(x.device), MEAN
        self.curve, self.measures = list[float](), list[Measure]()
        self.adapts = hasattr(self.learner, "predictions")
        self.axis = getattr(learner, "axis", "steps of adapting")
        if isinstance(new, Dataset):
            self.facts |= {"classes": len(source.members), "held_out_classes": len(new.classes)}
        if self.adapts:
            next(self.tasks())  # raises where there are too few classes or examples
        else:
            sizes = new.targets.bincount()
            most = {shots: int((sizes >= shots + QUERIES).sum()) for shots in (1, 5)}
            self.ways = min(5, most[1])
            settings = [(self.ways, 1), (self.ways, 5), (20, 1)]
            self.settings = [(ways, shots) for ways, shots in settings if ways <= most[shots]]
            self.untrained = self.accuracy(self.features(), self.ways, 1)

    def finish(self) -> list[Measure]:
        self.measures = self.by_steps() if self.adapts else self.by_shots()
        return self.measures

    def tasks(self) -> Iterator[Tasks]:
        """New tasks like those of training, in batches."""
        config, device, new = self.config, device_of(self.learner), self.new
        if isinstance(new, Dataset):
            yield from episodes_of(new, config.ways, config.shots, config.queries, device=device)
            return
        if isinstance(new, Pools):
            queries, count = min(new.x.shape[1] - new.shots, POINTS), min(len(new.x), REGRESSIONS)
            y = new.y if new.ways else new.y.reshape(*new.y.shape[:2], -1)  # (tasks, n, k)
            source: Any = Pools(new.x, y, new.shots, queries, count, SEED).to(device)
        else:
            source = new(REGRESSIONS, config.shots, POINTS, SEED).to(device)
        source.advance()
        yield source.sample()

    def by_steps(self) -> list[Measure]:
        """Squared errors or accuracies before adapting, and after 1 and after all steps."""
        rows, floor, whose = [], 1.0 / self.config.ways, "chance"
        for tasks in self.tasks():
            with in_eval_mode(self.learner):
                outputs, y = self.learner.predictions(tasks, STEPS), tasks.query.y  # (steps + 1, tasks, n, k)
            y = numbers_for(outputs[0], y) if self.is_regression else y
            scores = (outputs - y).square() if self.is_regression else (outputs.argmax(-1) == y).float()
            rows.append(scores.flatten(1).mean(1))
            if self.is_regression:
                floor, whose = float((self.guess(tasks.query.x) - y).square().mean()), self.guessed
        self.curve = torch.stack(rows).mean(0).tolist()
        name = "loss" if self.is_regression else "accuracy"
        measures = [Measure(f"test/{name}_after_{n}", self.curve[n], floor, whose) for n in (0, 1, STEPS)]
        return [*measures, Measure("test/loss_without_task", floor)] if self.is_regression else measures

    def features(self) -> Dataset:
        """The learner's features of the held-out examples."""
        x = predicted(self.learner, self.new.x.to(device_of(self.learner))).flatten(1)
        return Dataset(x.float().cpu(), self.new.y, self.new.classes)

    def accuracy(self, features: Dataset, ways: int, shots: int) -> float:
        """The learner's mean accuracy on new tasks of this kind."""
        device = device_of(self.learner)
        with in_eval_mode(self.learner):
            return float(accuracies(self.learner.classify, episodes_of(features, ways, shots, device=device)).mean())

    def by_shots(self) -> list[Measure]:
        """Accuracies by ways and shots, and those of raw pixels and of the untrained encoder."""
        measures, features = [], self.features()
        for ways, shots in self.settings:
            name, learned = f"test/{ways}_way_{shots}_shot", self.accuracy(features, ways, shots)
            pixels = float(accuracies(nearest_mean, episodes_of(self.new, ways, shots)).mean())
            measures += [Measure(name, learned, pixels, "nearest mean of pixels"), Measure(f"{name}_pixels", pixels)]
        return sorted([*measures, Measure(f"test/{self.ways}_way_1_shot_random_encoder", self.untrained)])

    def draw(self, folder: Path) -> list[Path]:
        figures = {} if not self.measures else self.step_figures() if self.adapts else self.shot_figures()
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in figures.items()]

    def step_figures(self) -> dict[str, Figure]:
        """The curve of adapting; three tasks of regression before and after it."""
        curves: dict[str, Any] = {"learner": self.curve}
        label = "squared error" if self.is_regression else "accuracy"
        if self.is_regression:
            curves[self.guessed] = [self.measures[0].reference] * len(self.curve)
        axes: Any = {"title": f"New tasks, {self.config.shots} examples", "x_label": self.axis}
        figures = {"adaptation": pictures.lines(range(len(self.curve)), curves, y_label=label, **axes)}
        tasks = mapped(next(self.tasks()), lambda part: part[:3] if part.dim() else part)
        if self.is_regression and tasks.query.x.shape[2:].numel() == tasks.query.y.shape[2:].numel() == 1:
            order = tasks.query.x[..., 0].argsort(1)  # (3, n)
            outputs = self.learner.predictions(tasks, STEPS)[..., 0]  # (steps + 1, 3, n)
            outputs = outputs.gather(2, order.expand(STEPS + 1, -1, -1)).cpu()
            x, y = (part[..., 0].gather(1, order).cpu() for part in tasks.query)
            fits = {f"after {count}": outputs[count] for count in (0, 1, STEPS)}
            figures["tasks"] = charts.functions(x, y, fits, tuple(part[..., 0].cpu() for part in tasks.support))
        return figures

    def shot_figures(self) -> dict[str, Figure]:
        """Accuracies as bars; one task of images: of each class the example to learn from, and its queries."""
        values = {measure.name.removeprefix("test/"): measure.value for measure in self.measures}
        learned = [name for name in values if name.endswith("shot")]
        title = f"{len(self.new.classes)} classes that training did not see"
        figures = {"few_shot": charts.bars(values, title, "accuracy", learned)}
        if self.new.x.dim() == 4:
            device, both = device_of(self.learner), (self.new, self.features())
            images, codes = (next(episodes_of(data, self.ways, 1, device=device)) for data in both)
            with in_eval_mode(self.learner):
                right = self.learner.classify(codes).argmax(-1)[0] == codes.query.y[0]  # (n,)
            rows, marks = {}, {}
            for label in range(self.ways):
                of_class = codes.query.y[0] == label
                rows[f"class {label + 1}"] = torch.cat([images.support.x[0, label, None], images.query.x[0, of_class]])
                marks[f"class {label + 1}"] = [True, *right[of_class].tolist()]
            title = "Learned from the first of each row; red: predicted as another class"
            figures["episode"] = charts.rows_of_images(rows, title, marks)
        return figures
