"""Learning to learn, put together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike
from torch import nn

from agentlib.backbones import CNN, adam
from agentlib.data import TASKS, Dataset, Episodes, Sinusoids, Tasks, dataset, split_classes
from agentlib.evaluation import charts, pictures
from agentlib.evaluation.few_shot import episode_accuracies
from agentlib.learners.meta.maml import MAML, MAMLConfig
from agentlib.learners.meta.prototypical import Prototypical, PrototypicalConfig, PrototypicalNetwork
from agentlib.policies import CategoricalPolicy, Predictor
from agentlib.recipes.backbones import BackboneChoice, backbone_for_examples
from agentlib.recipes.problem import Job, Problem, Recipe, Reference, choose_device, fresh_weights
from agentlib.training.trees import mapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_SEED = 2**20
"""Of the tasks that judge a result; those of training have the run's seed."""
TEST_STEPS = 10
"""A result is judged after so many steps of adapting, and after fewer."""
TEST_TASKS, TEST_POINTS = 1_000, 100
"""Sinusoids that judge a result, and points of each."""
EPISODES, QUERIES = 600, 5
"""Episodes of new classes that judge a result, and examples of each class that are asked for."""
WIDTHS = (40, 40)
"""Of the layers for sinusoids."""
LAYERS = (32, "max", 32, "max", 64, "max")
"""Of the convolutional network for images, of 8x8 pixels and more."""

ANOTHER = "another implementation"
SINUSOID_REFERENCES = {
    10: {1: Reference(0.49, f"{ANOTHER}, 3,000 updates"), 10: Reference(0.14, f"{ANOTHER}, 3,000 updates")},
    5: {1: Reference(0.66, f"{ANOTHER}, 8,000 updates"), 10: Reference(0.37, f"{ANOTHER}, 8,000 updates")},
}
"""By shots, then by steps of adapting."""
GLYPH_REFERENCES = {
    "test/5_way_1_shot": Reference(0.961, f"{ANOTHER}, 1,200 updates"),
    "test/5_way_5_shot": Reference(0.994, f"{ANOTHER}, 1,200 updates"),
    "test/20_way_1_shot": Reference(0.87, f"{ANOTHER}, 1,200 updates"),
    "test/5_way_1_shot_pixels": Reference(0.61, "measured by other code"),
    "test/20_way_1_shot_pixels": Reference(0.41, "measured by other code"),
}


def build_maml(
    config: MAMLConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A MAML run, on a family of tasks or on classes of a data set.

    Raises:
        ValueError: unknown data, a loss that is not for such tasks, or too few classes or examples.
    """
    family = TASKS.get(problem.data) if isinstance(problem.data, str) else None
    kind, right_loss = ("classification", "cross_entropy") if family is None else ("regression", "mse")
    if config.loss != right_loss:
        raise ValueError(f"{problem.key or 'this data'} makes tasks of {kind}: give loss={right_loss!r}")
    if family is not None:
        source: Episodes | Sinusoids = family(config.batch_size, config.shots, config.queries, seed)
        judged: Episodes | Sinusoids = family(TEST_TASKS, config.shots, TEST_POINTS, TEST_SEED)
        like = Dataset(torch.zeros(1, 1))
    else:
        like, new = _split(dataset(problem.data), config.held_out)
        source = Episodes(like, config.ways, config.shots, config.queries, config.batch_size, seed)
        judged = Episodes(new, config.ways, config.shots, config.queries, EPISODES, TEST_SEED)
    with fresh_weights(seed):
        encoder = _encoder(like, backbone, config.net_arch)
        network = CategoricalPolicy(encoder, config.ways) if family is None else Predictor(encoder)
    network.to(choose_device(device, network))
    place = next(network.parameters()).device
    learner = MAML(network, adam(config.learning_rate), config)
    judged.to(place).advance()
    batch = judged.sample()
    curve: list[float] = []

    def finish() -> dict[str, float]:
        curve[:] = _scores(learner, batch)
        name = "accuracy" if family is None else "loss"
        found = {f"test/{name}_after_{count}": curve[count] for count in (0, 1, TEST_STEPS)}
        return found if family is None else found | {"test/loss_without_task": _task_agnostic(batch)}

    def draw(folder: Path) -> list[Path]:
        drawn = _maml_charts(learner, batch, curve)
        return [pictures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()]

    steps = problem.steps or 0
    known = SINUSOID_REFERENCES.get(config.shots, {}) if family is not None else {}
    return Job(
        learner=learner,
        source=source.to(place),
        updates=steps,
        steps=steps,
        product=lambda: network,
        finish=finish,
        references={f"test/loss_after_{count}": reference for count, reference in known.items()},
        pictures=draw,
    )


def _scores(learner: MAML, batch: Tasks) -> list[float]:
    """Squared error, or accuracy, after 0, 1, ... steps of adapting."""
    outputs = learner.predictions(batch, TEST_STEPS)  # (steps + 1, tasks, n, k)
    if learner.config.loss == "mse":
        return (outputs - batch.query.y).square().flatten(1).mean(1).tolist()
    return (outputs.argmax(-1) == batch.query.y).float().flatten(1).mean(1).tolist()


def _task_agnostic(batch: Tasks) -> float:
    """The error, on the same sinusoids, of the best guess that does not know the task."""
    return float((Sinusoids.task_agnostic(batch.query.x) - batch.query.y).square().mean())


def _maml_charts(learner: MAML, batch: Tasks, curve: list[float]) -> dict[str, Figure]:
    regression, title = learner.config.loss == "mse", f"New tasks, {learner.config.shots} examples"
    floor, label = (_task_agnostic(batch), "squared error") if regression else (None, "accuracy")
    curves: dict[str, ArrayLike] = {"MAML": curve}
    if floor is not None:
        curves["the best that does not know the task"] = [floor] * len(curve)
    drawn = pictures.lines(range(len(curve)), curves, title=title, x_label="steps of adapting", y_label=label)
    found = {"adaptation": drawn}
    if regression:
        few = mapped(batch, lambda part: part[:3] if part.dim() else part)
        order = few.query.x[..., 0].argsort(1)  # (3, n)
        outputs = learner.predictions(few, TEST_STEPS)[..., 0].gather(2, order.expand(TEST_STEPS + 1, -1, -1)).cpu()
        x, y = (part[..., 0].gather(1, order).cpu() for part in few.query)
        fits = {f"after {count}": outputs[count] for count in (0, 1, TEST_STEPS)}
        found["tasks"] = charts.functions(x, y, fits, tuple(part[..., 0].cpu() for part in few.support))
    return found


def build_prototypical(
    config: PrototypicalConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A run of prototypical networks on some classes of a data set, judged on the others.

    Raises:
        ValueError: unlabelled data, or too few classes or examples.
    """
    known, new = _split(dataset(problem.data), config.held_out)
    source = Episodes(known, config.ways, config.shots, config.queries, config.batch_size, seed)
    with fresh_weights(seed):
        network = PrototypicalNetwork(_encoder(known, backbone, config.net_arch))
    ways = min(5, _classes_of(new, 1 + QUERIES))
    found = {f"{ways}_way_1_shot_random_encoder": _few_shot(network.backbone, new, ways, 1)}
    network.to(choose_device(device, network))

    def finish() -> dict[str, float]:
        for count, shots in ((ways, 1), (ways, 5), (20, 1)):
            if count <= _classes_of(new, shots + QUERIES):
                found[f"{count}_way_{shots}_shot"] = _few_shot(network.backbone, new, count, shots)
                found[f"{count}_way_{shots}_shot_pixels"] = _few_shot(None, new, count, shots)
        return {f"test/{name}": found[name] for name in sorted(found)}

    def draw(folder: Path) -> list[Path]:
        title, colour = (
            f"{len(new.classes)} classes that training did not see",
            [n for n in found if n.endswith("shot")],
        )
        drawn = [pictures.save(charts.bars(found, title, "accuracy", colour), folder / "few_shot.png")]
        if known.x.dim() == 4:
            drawn.append(pictures.save(_episode_chart(network, new, ways), folder / "episode.png"))
        return drawn

    steps = problem.steps or 0
    return Job(
        learner=Prototypical(network, adam(config.learning_rate), config),
        source=source.to(next(network.parameters()).device),
        updates=steps,
        steps=steps,
        product=lambda: network,
        finish=finish,
        references=GLYPH_REFERENCES if problem.key == "glyphs" else {},
        pictures=draw,
        tables={"classes": len(known.classes), "held_out_classes": len(new.classes)},
    )


def _episode_chart(network: PrototypicalNetwork, data: Dataset, ways: int) -> Figure:
    """One episode: an example of each class to learn from, and others of it."""
    source = Episodes(data, ways, 1, 8, seed=TEST_SEED).to(next(network.parameters()).device)
    source.advance()
    batch = source.sample()
    with torch.no_grad():
        right = network(batch.support, batch.query.x, ways).argmax(-1)[0] == batch.query.y[0]  # (8 * ways,)
    rows, marks = {}, {}
    for label in range(ways):
        of_class = batch.query.y[0] == label
        rows[f"class {label + 1}"] = torch.cat([batch.support.x[0, label, None], batch.query.x[0, of_class]])
        marks[f"class {label + 1}"] = [True, *right[of_class].tolist()]
    return charts.rows_of_images(rows, "Learned from the first of each row; red: taken for another class", marks)


def _classes_of(data: Dataset, size: int) -> int:
    """How many classes have so many examples."""
    assert data.y is not None
    return int((data.y.bincount() >= size).sum())


def _few_shot(encoder: nn.Module | None, data: Dataset, ways: int, shots: int) -> float:
    return float(
        episode_accuracies(encoder, data, ways, shots, queries=QUERIES, episodes=EPISODES, seed=TEST_SEED).mean()
    )


def _split(data: Dataset, held_out: float) -> tuple[Dataset, Dataset]:
    return split_classes(data, round(held_out * len(data.classes)))


def _encoder(like: Dataset, backbone: BackboneChoice, net_arch: tuple[int, ...] | None) -> nn.Module:
    shape = tuple(like.x.shape[1:])
    if backbone == "auto" and len(shape) == 3:
        return CNN(shape, LAYERS, feature_dim=None, norm="group")
    widths = WIDTHS if net_arch is None and len(shape) < 3 else net_arch
    return backbone_for_examples(like, backbone, widths)


RECIPES = (
    Recipe(
        "maml",
        MAMLConfig,
        build_maml,
        "model-agnostic meta-learning (Finn et al. 2017), regression and classification",
        learns_from="tasks, such as sinusoids, or data with many classes",
        needs=("data",),
        steps=3_000,
    ),
    Recipe(
        "prototypical",
        PrototypicalConfig,
        build_prototypical,
        "prototypical networks (Snell et al. 2017), classes from few examples",
        learns_from="data with many classes",
        needs=("data",),
        steps=1_200,
    ),
)
