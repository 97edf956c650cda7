"""Learning from scenes: the classes of pixels, their depth, or boxes of objects; each is judged by its usual measures.

Every run says beside its result the floor that needs no network: nothing but background, the mean depth of the training
part, the mean box and the most frequent class.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.choice import space_of
from agentlib.core.progress import watched
from agentlib.core.recipe import Job, Judge, Measure, Problem, Recipe, family
from agentlib.data import Batches, Dataset, Scenes, ScenesParts, scene_parts
from agentlib.families.building import device_of, job_for, learner_for, network_for, predicted
from agentlib.metrics.boxes import COCO_THRESHOLDS, Found, average_precisions
from agentlib.metrics.masks import depth_errors, grouping_score, instances, mean_dice, mean_iou
from agentlib.plots import pictures, scenes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATIONS, EVALUATED = 20, 200
"""Evaluations in a run, and validation pictures that each of them looks at, at most."""
CHUNK, SHOWN = 50, 8
"""Pictures that go through the network at once, where nothing is learned; and test pictures that are drawn."""
NEEDED = {"masks": ("masks", "labels"), "depth": ("depth",), "boxes": ("boxes", "labels")}
"""Parts of scenes from which each kind is learned."""
OBJECTIVES = {"masks": "mean_iou", "depth": "abs_rel", "boxes": "map_50"}
"""What is learned, and the score by which the best is known."""


class SceneFacts(NamedTuple):
    """The problem of a learner from scenes."""

    train: Scenes
    """The training part, on the CPU."""

    @property
    def space(self) -> spaces.Box:
        """Of one picture."""
        return space_of(self.train.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture, (C, H, W)."""
        return tuple(self.train.images.shape[1:])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.train.classes


def require_targets(part: Scenes, kind: str) -> None:
    """Raises ValueError for scenes without the parts that `targets_of` takes, or without any object to find."""
    for name in NEEDED[kind]:
        part.known(name)
    if kind == "boxes" and not bool((part.known("labels") >= 0).any()):
        raise ValueError("no picture of these scenes has an object, and without one there is nothing to detect")


def targets_of(part: Scenes, kind: str) -> Tensor:
    """What is to be learned of each picture.

    Args:
        part: N pictures.
        kind: "masks", the class of each pixel `(N, H, W)`, 0 for background; "depth", `(N, H, W)`; or "boxes",
            `(N, M, 5)`, the corners and the class of each object, -1 for none.

    Raises:
        ValueError: the scenes are without it.
    """
    if kind == "masks":
        return part.semantic
    if kind == "depth":
        return part.known("depth")  # type: ignore[no-any-return]
    return torch.cat([part.known("boxes"), part.known("labels")[..., None].float()], -1)


@family("scenes", needs=("data",), makes_agent=False, fields=("batch_size",), methods=("predict",))
def on_scenes(recipe: Recipe, problem: Problem) -> Job:
    """What pictures show. A learner says what by its attribute `targets`, see `targets_of`; batches are `Examples`.

    `learner.network` is the product and has a `backbone`. `learner.predict(x)` gives logits `(B, 1 + classes, H, W)` of
    pixels, depths `(B, H, W)`, or detections `(B, n, 6)`: corners, score and class, with a score of 0 for none. The
    method `network(shape)` of its config makes the network that "auto" means.

    Raises:
        ValueError: a part of the scenes is without what is to be learned, or the network has no maps.
    """
    kind: Any = recipe.learner
    splits = scene_parts(problem.data, problem.seed)
    for part in splits:
        require_targets(part, kind.targets)
    facts = SceneFacts(splits.train)
    targets = targets_of(splits.train, kind.targets)

    def network() -> nn.Module:
        if problem.backbone == "auto":
            made: nn.Module = problem.config.network(facts.shape)
            return made
        return network_for(problem, facts.space)

    learner: Any = learner_for(recipe, problem, network, facts)
    source = Batches(Dataset(facts.train.images, targets), problem.config.batch_size, seed=problem.seed)
    return job_for(problem, learner, source, learner.network, ScenesJudge(learner, splits, problem))


class ScenesJudge(Judge):
    """Scores on validation pictures while training, and on the test part beside their floors."""

    evaluates = True

    def __init__(self, learner: Any, splits: ScenesParts, problem: Problem) -> None:
        super().__init__()
        self.learner, self.splits, self.kind = learner, splits, learner.targets
        self.objective, self.lower_is_better = f"eval/{OBJECTIVES[self.kind]}", self.kind == "depth"
        # An update costs three passes for each picture, an evaluation one: it is to take a tenth of the time at most.
        self.evaluated = splits.validation.sampled(EVALUATED)
        least = math.ceil(len(self.evaluated) / (0.3 * problem.config.batch_size))
        self.eval_every = max(int(problem.steps or 1) // EVALUATIONS, least)
        sizes = {name: len(part) for name, part in splits._asdict().items()}
        self.facts |= {"pictures": sizes, "classes": list(splits.train.classes)}

    def predictions(self, part: Scenes) -> Tensor:
        """What the learner says of pictures, on the CPU."""
        parts, device = watched(part.images.split(CHUNK), "judging"), device_of(self.learner)
        found = [predicted(self.learner, images.to(device)) for images in parts]
        if self.kind == "masks":
            found = [logits.argmax(1) for logits in found]
        return torch.cat(found).cpu()

    def scores(self, predictions: Tensor, part: Scenes) -> dict[str, float]:
        """Measures by name, the objective first."""
        if self.kind == "masks":
            truth, n = part.semantic, 1 + len(part.classes)
            return {"mean_iou": mean_iou(predictions, truth, n), "mean_dice": mean_dice(predictions, truth, n)}
        if self.kind == "depth":
            return depth_errors(predictions, part.known("depth"))._asdict()
        each = average_precisions(found_in(predictions), truth_of(part), len(part.classes), COCO_THRESHOLDS)
        return {"map_50": float(np.nanmean(each[0])), "map": float(np.nanmean(each))}

    def evaluate(self) -> dict[str, float]:
        part = self.evaluated
        return {f"eval/{name}": value for name, value in self.scores(self.predictions(part), part).items()}

    def finish(self) -> list[Measure]:
        train, test = self.splits.train, self.splits.test
        predictions = self.predictions(test)
        found = self.scores(predictions, test)
        guess, whose = self.floor(train, test)
        floors = self.scores(guess, test)
        measures = [Measure(f"test/{name}", value, floors[name], whose) for name, value in found.items()]
        if self.kind == "masks":
            objects = test.known("masks")
            one = grouping_score(objects > 0, objects)
            score = grouping_score(torch.cat([instances(part) for part in predictions.split(CHUNK)]), objects)
            measures.append(Measure("test/instances_ari", score, one, "all objects as one"))
        return measures

    def floor(self, train: Scenes, test: Scenes) -> tuple[Tensor, str]:
        """Predictions for test pictures that need no network, and what they are."""
        if self.kind == "masks":
            return torch.zeros(len(test), *test.sides, dtype=torch.int64), "nothing but background"
        if self.kind == "depth":
            return train.known("depth").mean(0).expand(len(test), -1, -1), "the mean depth of each pixel in training"
        labels = train.known("labels")
        most = int(labels[labels >= 0].bincount().argmax())
        box = train.known("boxes")[labels >= 0].mean(0)
        return torch.cat([box, torch.tensor([1.0, most])]).expand(len(test), 1, 6), "the mean box, most frequent class"

    def draw(self, folder: Path) -> list[Path]:
        part = self.splits.test.take(slice(0, SHOWN))
        return [pictures.save(self.figure(part, self.predictions(part)), folder / f"{self.kind}.png")]

    def figure(self, part: Scenes, predictions: Tensor) -> Figure:
        """Test pictures, the truth and what the learner says."""
        images = part.images.float() / 255.0
        if self.kind == "masks":
            return scenes.segmentations(images, {"truth": part.semantic, "predicted": predictions}, part.classes)
        if self.kind == "depth":
            return scenes.depths(images, {"truth": part.known("depth"), "predicted": predictions})
        truth = torch.cat([part.known("boxes"), torch.ones(*part.known("labels").shape, 2)], -1)
        truth[..., 5] = part.known("labels")
        return scenes.boxes(images, {"truth": truth, "predicted": predictions}, part.classes)


def truth_of(part: Scenes) -> Found:
    """The objects of scenes, one row for each."""
    there = part.known("labels") >= 0
    boxes, labels = part.known("boxes")[there].double().numpy(), part.known("labels")[there].numpy()
    return Found(there.nonzero()[:, 0].numpy(), boxes, labels)


def found_in(detections: Tensor) -> Found:
    """Detections `(N, n, 6)` with a score above 0, one row for each."""
    there = detections[..., 4] > 0
    rows = detections[there].double().numpy()
    return Found(there.nonzero()[:, 0].numpy(), rows[:, :4], rows[:, 5].astype(np.int64), rows[:, 4])
