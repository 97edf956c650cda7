"""Scenes: pictures with boxes, classes, masks, depth and captions, whatever of these is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from agentlib.core.numbers import whole
from agentlib.data.datasets import some_of
from agentlib.data.files import pixels
from agentlib.metrics.boxes import Convention, as_corners

DTYPES = {"boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8, "depth": torch.float32}
"""Of the parts beside the images."""
MOST_OBJECTS = 255
"""Objects in one picture, at most: masks are bytes."""
CORNERS = "boxes are (x1, y1, x2, y2) in pixels, x to the right and y down"


@dataclass(frozen=True, eq=False)
class Scenes:
    """N pictures. All but these may be unknown. `scenes_from` makes one of lists of arrays.

    Arrays have room for M objects, as many as the fullest picture has; those of a picture come first, and the rest has
    the label -1: so a batch always has the same shapes.

    Raises:
        TypeError: a part is no tensor.
        ValueError: parts differ in length or size, or are of another type than here; a box is outside, empty or of
            another convention, or a label is none of the classes; the message says where.
    """

    images: Tensor
    """`(N, C, H, W)` uint8."""
    boxes: Tensor | None = None
    """`(N, M, 4)` float32: (x1, y1, x2, y2) in pixels, edges between pixels, as in `agentlib.metrics.boxes`."""
    labels: Tensor | None = None
    """`(N, M)` int64 classes from 0; -1 where there is no object."""
    masks: Tensor | None = None
    """`(N, H, W)` uint8: the object that each pixel shows, 1 for the first of the boxes; 0 for background."""
    depth: Tensor | None = None
    """`(N, H, W)` float32: the distance that each pixel shows, above 0 and finite."""
    captions: tuple[str, ...] | None = None
    """One text for each picture."""
    classes: tuple[str, ...] = ()
    """Names of the labels."""

    def __post_init__(self) -> None:
        tensors = {name: getattr(self, name) for name in ("images", "boxes", "labels", "masks", "depth")}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor | None):
                raise TypeError(f"{name} is a {type(tensor).__name__}: agentlib.data.scenes_from takes arrays")
            if tensor is not None and len(tensor) != len(self):
                raise ValueError(f"there are {len(self)} images and {len(tensor)} {name}")
            if tensor is not None and tensor.dtype != DTYPES.get(name, tensor.dtype):
                raise ValueError(
                    f"{name} are {DTYPES[name]}, not {tensor.dtype}: agentlib.data.scenes_from converts arrays"
                )
        if self.images.dim() != 4 or self.images.dtype != torch.uint8:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise ValueError(f"images are uint8 of shape (N, C, H, W), not {found}")
        if (self.boxes is None) != (self.labels is None):
            raise ValueError("boxes and labels belong together: a picture without objects has labels of -1")
        if self.captions is not None and len(self.captions) != len(self):
            raise ValueError(f"there are {len(self)} images and {len(self.captions)} captions")
        for name in ("masks", "depth"):
            one = tensors[name]
            if one is not None and one.shape[1:] != self.images.shape[2:]:
                found, sides = (" x ".join(map(str, part.shape[-2:])) for part in (one, self.images))
                raise ValueError(f"{name} are of {found} pixels, and the pictures of {sides}")
        if self.depth is not None and not bool(((self.depth > 0) & self.depth.isfinite()).all()):
            raise ValueError("a depth is a distance above 0; give pixels without one a large number")
        self._check_objects()

    def _check_objects(self) -> None:
        if self.labels is not None and self.boxes is not None:
            if self.labels.shape != self.boxes.shape[:2] or self.boxes.shape[2:] != (4,):
                shapes = tuple(self.boxes.shape), tuple(self.labels.shape)
                raise ValueError(f"boxes are (N, M, 4) and labels (N, M), not {shapes[0]} and {shapes[1]}")
            there = self.labels >= 0
            if bool((there[:, 1:] & ~there[:, :-1]).any()):
                raise ValueError("the objects of a picture come first, and labels of -1 after them")
            if there.any() and int(self.labels.max()) >= len(self.classes):
                raise ValueError(f"label {int(self.labels.max())} is none of the {len(self.classes)} classes")
            check_boxes(self.boxes, there, self.sides)
        if self.masks is not None:
            most = 0 if self.labels is None else self.counts.view(-1, 1, 1)
            wrong = (self.masks > most).flatten(1).any(1).nonzero()
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(
                    f"the mask of picture {row} shows object {int(self.masks[row].max())}, which has no box"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def counts(self) -> Tensor:
        """Objects of each picture, `(N,)`."""
        labels: Tensor = self.known("labels")
        return (labels >= 0).sum(1)

    @property
    def semantic(self) -> Tensor:
        """The class that each pixel shows, from 1, `(N, H, W)` int64; 0 for background."""
        masks, labels = self.known("masks").long(), self.known("labels")
        table = torch.nn.functional.pad(labels + 1, (1, 0))  # (N, 1 + M)
        shown: Tensor = table.gather(1, masks.flatten(1)).view_as(masks)
        return shown

    def known(self, name: str) -> Any:
        """A part by its name.

        Raises:
            ValueError: these scenes are without it.
        """
        part = getattr(self, name)
        if part is None:
            raise ValueError(f"these scenes have no {name}, and without them there is nothing to learn here")
        return part

    def take(self, rows: Tensor | NDArray[np.int64] | slice) -> Scenes:
        """The scenes in these rows."""
        index: Any = rows if isinstance(rows, slice) else torch.as_tensor(rows)
        tensors = ("images", "boxes", "labels", "masks", "depth")
        parts: dict[str, Any] = {name: None if (one := getattr(self, name)) is None else one[index] for name in tensors}
        if self.captions is not None:
            parts["captions"] = tuple(self.captions[row] for row in torch.arange(len(self))[index].tolist())
        return replace(self, **parts)

    def sampled(self, most: int) -> Scenes:
        """All scenes, or `most` random ones in their order, the same at each call."""
        if len(self) <= most:
            return self
        return self.take(some_of(len(self), most))


def check_boxes(boxes: Tensor, there: Tensor, sides: tuple[int, int]) -> None:
    """Raises ValueError for a box that is outside, empty, or of another convention; it says which.

    Args:
        boxes: `(N, M, 4)`.
        there: `(N, M)`, which of them count.
        sides: height and width of the pictures.
    """
    size = boxes.new_tensor([sides[1], sides[0], sides[1], sides[0]])
    inside = (boxes >= 0).all(-1) & (boxes <= size).all(-1)
    empty = ~(boxes[..., 2:] > boxes[..., :2]).all(-1)  # of NaN, too
    given = boxes[there]
    are_shares = len(given) > 0 and max(sides) > 2 and bool((given >= 0).all()) and bool((given <= 1).all())
    wrong = (there & (~inside | empty | are_shares)).nonzero()
    if not len(wrong):
        return
    row, column = wrong[0].tolist()
    values = ", ".join(f"{value:g}" for value in boxes[row, column].tolist())
    fault = "is empty" if bool(empty[row, column]) else f"reaches outside of the picture of {sides[0]} x {sides[1]}"
    hint = ""
    if are_shares:
        fault, hint = "is at most 1", ". They look like shares of the sides: multiply them by width and height"
    else:
        conventions: tuple[Convention, ...] = ("xywh", "cxcywh")
        for convention in conventions:
            corners = as_corners(given, convention)
            fits = (corners >= 0).all() & (corners <= size).all() & (corners[:, 2:] > corners[:, :2]).all()
            if bool(fits):
                hint = f". All of them would be right as {convention}: scenes_from(..., convention='{convention}')"
                break
    raise ValueError(f"box {column} of picture {row}, ({values}), {fault}: {CORNERS}{hint}")


def scenes_from(
    images: ArrayLike,
    boxes: Sequence[ArrayLike],
    labels: Sequence[Sequence[int | str]],
    classes: Sequence[str],
    *,
    convention: Convention = "xyxy",
    **parts: Any,
) -> Scenes:
    """Scenes of arrays and lists, one entry for each picture.

    Args:
        images: `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8.
        boxes: `(n, 4)` for each picture; an empty list where there are no objects.
        labels: n names, or numbers from 0, for each picture.
        classes: names of the labels.
        convention: of the boxes: corners, or corner or center with width and height; see `agentlib.metrics.boxes`.
        parts: `masks`, `depth` and `captions`, as `Scenes` has them.

    Raises:
        ValueError: an unknown class, numbers of boxes and labels that differ, or what `Scenes` raises.
    """
    x = np.asarray(images)
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise ValueError(f"images are uint8 of shape (N, H, W), (N, H, W, C) or (N, C, H, W), not {x.dtype} {x.shape}")
    if not len(x) == len(boxes) == len(labels):
        raise ValueError(f"there are {len(x)} images, {len(boxes)} lists of boxes and {len(labels)} of labels")
    names = {name: number for number, name in enumerate(classes)}
    most = max((len(one) for one in labels), default=0)
    if most > MOST_OBJECTS:
        raise ValueError(f"a picture has {most} objects, and {MOST_OBJECTS} at most are possible")
    corners, numbers = torch.zeros(len(x), most, 4), torch.full((len(x), most), -1)
    for row, (some, given) in enumerate(zip(boxes, labels, strict=True)):
        found = torch.as_tensor(np.asarray(some, np.float64).reshape(-1, 4) if len(given) else np.zeros((0, 4)))
        if np.asarray(some).size != 4 * len(given):
            raise ValueError(f"picture {row} has boxes of shape {np.asarray(some).shape} and {len(given)} labels")
        corners[row, : len(given)] = as_corners(found, convention)
        for column, label in enumerate(given):
            number = names.get(label, -1) if isinstance(label, str) else int(label)
            if not 0 <= number < len(names):
                known = ", ".join(map(str, classes))
                raise ValueError(f"object {column} of picture {row} is a {label!r}, which is no class: {known}")
            numbers[row, column] = number
    if "masks" in parts:
        masks = np.asarray(parts["masks"])
        parts["masks"] = torch.from_numpy(masks.astype(np.uint8))
        if not np.array_equal(parts["masks"].numpy(), masks):
            raise ValueError(f"masks are whole numbers from 0 to {MOST_OBJECTS}: the object that each pixel shows")
    if "depth" in parts:
        parts["depth"] = torch.from_numpy(np.asarray(parts["depth"]).astype(np.float32))
    if "captions" in parts:
        parts["captions"] = tuple(parts["captions"])
    shown = torch.from_numpy(np.round(pixels(x) * 255.0).astype(np.uint8))  # (N, C, H, W)
    return Scenes(shown, corners, numbers, classes=tuple(map(str, classes)), **parts)


class ScenesParts(NamedTuple):
    """Scenes in three parts: learn from the first, choose by the second, report the third."""

    train: Scenes
    validation: Scenes
    test: Scenes


def split_scenes(scenes: Scenes, seed: int = 0, validation: float = 0.15, test: float = 0.15) -> ScenesParts:
    """Three random parts; the same seed gives the same parts.

    Raises:
        ValueError: there are too few pictures for three parts.
    """
    n = len(scenes)
    n_test, n_validation = round(test * n), round(validation * n)
    if not 0 < n_test + n_validation < n or min(n_test, n_validation) == 0:
        raise ValueError(f"{n} pictures are too few for a training, a validation and a test part")
    rows = np.random.default_rng([whole("seed", seed), 2]).permutation(n)
    parts = rows[n_test + n_validation :], rows[n_test : n_test + n_validation], rows[:n_test]
    return ScenesParts(*(scenes.take(part) for part in parts))
