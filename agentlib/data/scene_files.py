"""Scenes from files: COCO-style JSON and VOC-style XML beside folders of images; and any data as parts of scenes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from agentlib.core.names import shown
from agentlib.data.datasets import Dataset
from agentlib.data.files import IMAGE_SUFFIXES, load_pictures
from agentlib.data.hugging_face import SAVED_FILES
from agentlib.data.loading import image_size, is_path, parts
from agentlib.data.scene_toys import SCENES, two_on_canvas
from agentlib.data.scenes import Scenes, ScenesParts, scenes_from, split_scenes

PAIRS = (2_000, 300, 600)
"""Pictures of two labelled images that are made of the training, validation and test part of a data set."""
OVER = 1.0
"""Pixels by which a box in a file may reach outside of its picture: it is cut off there."""
TURNED = (5, 6, 7, 8)
"""Orientations of EXIF in which width and height change places."""


def scene_parts(data: Any, seed: int = 0) -> ScenesParts:
    """The training, validation and test part of any scenes.

    Args:
        data: a name of `SCENES`; a path as `load_scenes` takes it; `Scenes`, or three of them in their parts; or
            labelled images as `agentlib.data.parts` takes them, two of which are put on a canvas each time (for a test
            picture two of the test part).
        seed: of the random parts, and of the pairs.

    Raises:
        ValueError: unknown data, or data that does not fit; the message says what would.
    """
    if isinstance(data, ScenesParts):
        _require_alike(data)
        return data
    if isinstance(data, str) and data in SCENES:
        data = SCENES[data]()
    if isinstance(data, Path) or (isinstance(data, str) and is_path(data)):
        path = Path(str(data).partition("#")[0])
        if path.suffix.lower() == ".json" or _annotations(path):
            data = load_scenes(data)
    if isinstance(data, Scenes):
        return split_scenes(data, seed)
    images: Sequence[Dataset] = parts(data, seed, predict="classes")
    numbered = zip(images, PAIRS, strict=True)
    return ScenesParts(*(two_on_canvas(part, n, 3 * seed + i) for i, (part, n) in enumerate(numbered)))


def _require_alike(scenes: ScenesParts) -> None:
    """Raises ValueError for parts of other classes, in their order, or sizes than the first has."""
    first = scenes.train
    for name, part in scenes._asdict().items():
        if part.classes != first.classes or part.images.shape[1:] != first.images.shape[1:]:
            both = (("train", first), (name, part))
            listed = "; ".join(f"{one}: {', '.join(it.classes)}, {tuple(it.images.shape[1:])}" for one, it in both)
            raise ValueError(f"the parts differ in their classes or shapes: {listed}")


def load_scenes(path: str | Path) -> Scenes:
    """Scenes in a COCO-style JSON file beside its images, or in a folder with one, or in a VOC-style folder.

    `DIR#64`, or `DIR#HEIGHTxWIDTH`, scales images, boxes and masks.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is neither, or something in it does not fit; the message says where.
    """
    text, _, size = str(path).partition("#")
    path, sides = Path(text), image_size(size) if size else None
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    found = path if path.suffix.lower() == ".json" else _annotations(path)
    if found is None:
        raise ValueError(f"{path} holds no scenes: neither one .json file nor a folder Annotations")
    return load_coco(found, sides) if found.is_file() else load_voc(path, sides)


def _annotations(folder: Path) -> Path | None:
    """The annotations in a folder: of VOC's a folder, of COCO's a file; none in a data set of Hugging Face's."""
    if not folder.is_dir() or any((folder / name).is_file() for name in SAVED_FILES):
        return None
    if (folder / "Annotations").is_dir():
        return folder / "Annotations"
    files = sorted(folder.glob("*.json"))
    return files[0] if len(files) == 1 else None


def load_coco(path: str | Path, size: tuple[int, int] | None = None) -> Scenes:
    """COCO-style annotations (Lin et al. 2014): pictures, objects with boxes (x, y, width, height), masks, captions.

    Masks are polygons or run lengths, also packed ones. Where objects lie on one another, smaller ones are seen. Crowds
    (`iscrowd`) are left out. Images are in the file's folder, or in a folder `images` beside it. Where one object
    has no mask there are none, which a warning says: its pixels would count as background.

    Args:
        path: of the JSON file.
        size: height and width to which all is scaled; without it, all images must have one size.

    Raises:
        ValueError: the file is no such annotations, or something in it does not fit; the message says where.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {one["id"]: str(one["name"]) for one in content.get("categories", [])}
        pictures = {one["id"]: one for one in content["images"]}
        objects: dict[Any, list[Any]] = {number: [] for number in pictures}
        captions: dict[Any, str] = {}
        for one in content["annotations"]:
            if "caption" in one:
                captions.setdefault(one["image_id"], str(one["caption"]))
            elif not one.get("iscrowd", 0):
                x, y, w, h = map(float, one["bbox"])
                objects[one["image_id"]].append((one["category_id"], (x, y, w, h), one.get("segmentation")))
        files = [_inside(path.parent, str(one["file_name"])) for one in pictures.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no COCO-style annotations: {type(error).__name__} {error}") from None
    rows, labels, masks = [], [], []
    wanted = [(one.get("height"), one.get("width")) for one in pictures.values()]
    images, scales = _pictures(files, size, wanted)
    sides = (images.shape[1], images.shape[2])
    for (number, some), scale in zip(objects.items(), scales, strict=True):
        unknown = [category for category, *_ in some if category not in names]
        if unknown:
            raise ValueError(f"{path}: picture {number} has an object of category {unknown[0]!r}, which is not listed")
        some.sort(key=lambda one: one[1][2] * one[1][3], reverse=True)
        labels.append([names[category] for category, *_ in some])
        boxes = [_corners(box, sides, scale, f"{path}: picture {number}") for _, box, _ in some]
        rows.append(_scaled(np.array(boxes, np.float64).reshape(-1, 4), scale, sides))
        try:
            masks.append(_painted([shape for *_, shape in some], sides, scale))
        except (ValueError, KeyError, TypeError) as error:
            wrong = f"{type(error).__name__} {error}"
            raise ValueError(f"{path}: picture {number} has a segmentation that cannot be read: {wrong}") from None
    more: dict[str, Any] = {}
    bare = [number for number, some in objects.items() if not all(shape for *_, shape in some)]
    if any(objects.values()) and not bare:
        more["masks"] = np.stack(masks)
    elif any(mask.any() for mask in masks):
        warnings.warn(
            f"{path}: there will be no masks, because an object of picture {bare[0]} has no segmentation (and of "
            f"{len(bare) - 1} other pictures): add it, or remove the object",
            stacklevel=2,
        )
    if captions and set(captions) == set(pictures):
        more["captions"] = [captions[number] for number in pictures]
    return scenes_from(images, rows, labels, list(names.values()), **more)


def _corners(
    box: tuple[float, float, float, float], sides: tuple[int, int], scale: tuple[float, float], place: str
) -> list[float]:
    """The corners of a box of COCO's, in pixels of the file's picture.

    Raises:
        ValueError: it is empty or outside; the message says so, and whether it would fit as corners.
    """
    (x, y, w, h), height, width = box, sides[0] / scale[0], sides[1] / scale[1]
    starts = min(x, y) >= -OVER
    if starts and min(w, h) > 0 and x + w <= width + OVER and y + h <= height + OVER:
        return [x, y, x + w, y + h]
    corners = starts and x < w <= width + OVER and y < h <= height + OVER
    hint = f". As the corners x1, y1, x2, y2 it would fit: write {x:g}, {y:g}, {w - x:g}, {h - y:g}" if corners else ""
    fault = "reaches outside of the picture" if min(w, h) > 0 else "is empty"
    raise ValueError(
        f"{place}, of {height:.0f} x {width:.0f} pixels, has a box {x:g}, {y:g}, {w:g}, {h:g}, which {fault}: "
        f"COCO's boxes are x, y, width and height in pixels{hint}"
    )


def _painted(shapes: Sequence[Any], sides: tuple[int, int], scale: tuple[float, float]) -> NDArray[np.uint16]:
    """The object that each pixel shows, `(H, W)`: of several the last one."""
    mask = np.zeros(sides, np.uint16)
    for place, shape in enumerate(shapes, 1):
        if shape:
            mask[mask_of(shape, sides, scale)] = place
    return mask


def mask_of(shape: Any, sides: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.bool_]:
    """A mask `(H, W)` of COCO's polygons (a list of lists x1, y1, x2, y2, ...) or run lengths.

    Args:
        shape: the polygons, or `{"size": [h, w], "counts": [...]}` with numbers or packed in a text.
        sides: height and width of the mask.
        scale: of the mask's height and width to those of the picture that the shape is of.

    Raises:
        ValueError: run lengths that do not fill their picture, or points that are no pairs.
    """
    height, width = sides
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    if isinstance(shape, dict):
        h, w = shape["size"]
        counts = shape["counts"]
        runs = _unpacked(counts) if isinstance(counts, str) else list(counts)
        if sum(runs) != h * w or min(runs, default=0) < 0:
            raise ValueError(f"run lengths of {sum(runs)} pixels do not fill a picture of {h} x {w}")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        columns = flat.reshape(w, h)
        picked = columns[np.ix_((x * w / width).astype(int), (y * h / height).astype(int))]
        return picked.T
    mask = np.zeros(sides, bool)
    for flat in shape:
        if len(flat) % 2 or len(flat) < 6:
            raise ValueError(f"a polygon is x1, y1, x2, y2, ... of three points at least, not {len(flat)} numbers")
        points = np.asarray(flat, np.float64).reshape(-1, 2) * scale[::-1]
        inside = np.zeros(sides, bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            if y0 != y1:  # each edge to the right of a pixel's center turns inside out
                crossed = (y0 > y) != (y1 > y)
                inside ^= crossed[:, None] & (x[None] < (x0 + (y - y0) * (x1 - x0) / (y1 - y0))[:, None])
        mask |= inside
    return mask


def _unpacked(text: str) -> list[int]:
    """Run lengths from COCO's text: five bits a letter, the lowest first, each number less the one before the last."""
    runs, value, bits = list[int](), 0, 0
    for letter in text:
        code = ord(letter) - 48
        value |= (code & 0x1F) << bits
        bits += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return runs


def load_voc(folder: str | Path, size: tuple[int, int] | None = None) -> Scenes:
    """VOC-style annotations (Everingham et al. 2010): `Annotations/*.xml`, images in `JPEGImages` or `images`.

    Edges there are the first and last pixel, counted from 1: the box 1, 1, 8, 8 becomes (0, 0, 8, 8). Files with a DTD
    or entities are refused. Classes are those that occur, by the alphabet.

    Raises:
        ValueError: a file is no such annotation, or something in it does not fit; the message says where.
    """
    folder = Path(folder)
    files = sorted((folder / "Annotations").glob("*.xml"))
    if not files:
        raise ValueError(f"{folder / 'Annotations'} holds no .xml files")
    place = next((folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), folder)
    pictures, boxes, labels, wanted = list[Path](), list[Any](), list[list[str]](), list[Any]()
    for file in files:
        root = _parsed(file)
        try:
            pictures.append(_inside(place, root.findtext("filename") or file.stem, folders=("",)))
            edges = [[float(one.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax")]
                     for one in root.iter("object")]  # fmt: skip
            labels.append([one.findtext("name") or "" for one in root.iter("object")])
            if "" in labels[-1]:
                raise ValueError("an object has no name")
            wanted.append(tuple(int(root.findtext(f"size/{name}") or 0) or None for name in ("height", "width")))
        except ValueError as error:
            raise ValueError(f"{file} holds no VOC-style annotation: {error}") from None
        boxes.append(np.array(edges, np.float64).reshape(-1, 4) - [1.0, 1.0, 0.0, 0.0])
    images, scales = _pictures(pictures, size, wanted)
    sides = (images.shape[1], images.shape[2])
    boxes = [_scaled(some, scale, sides) for some, scale in zip(boxes, scales, strict=True)]
    return scenes_from(images, boxes, labels, sorted({name for some in labels for name in some}))


def _parsed(file: Path) -> Any:
    """The root of an XML file without a DTD, and so without entities."""
    content, check = file.read_bytes(), expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise ValueError(f"{file} declares a document type, which annotations do not need: it is not read")

    check.StartDoctypeDeclHandler = refuse
    try:
        check.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise ValueError(f"{file} is no XML that can be read: {error}") from None


def _inside(folder: Path, name: str, folders: Sequence[str] = ("", "images")) -> Path:
    """The image of a name that a file gives, in a folder and not beyond."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"the image {shown(name)} is outside of the folder")
    endings = ["", *sorted(IMAGE_SUFFIXES)]
    found = [folder / where / f"{name}{ending}" for where in folders for ending in endings]
    file = next((one for one in found if one.is_file()), None)
    if file is None:
        raise ValueError(f"there is no image {shown(name)} in {folder}")
    return file


def _pictures(
    files: Sequence[Path], size: tuple[int, int] | None, wanted: Sequence[tuple[Any, Any]]
) -> tuple[NDArray[np.uint8], list[tuple[float, float]]]:
    """Images `(N, H, W, C)`, and by how much height and width of each were scaled.

    Raises:
        ValueError: an image that is shown at another size than its annotation says.
    """
    if not files:
        raise ValueError("the annotations list no images")
    found = load_pictures(files, size).x
    images = np.round(found.movedim(1, -1).numpy() * 255.0).astype(np.uint8)
    from PIL import Image

    scales = []
    for file, (height, width) in zip(files, wanted, strict=True):
        with Image.open(file) as image:
            w, h = image.size[::-1] if image.getexif().get(274) in TURNED else image.size
        if (height or h, width or w) != (h, w):
            raise ValueError(
                f"{file} is shown at {h} x {w}, and its annotation is of {height} x {width}: annotate images as a "
                "viewer shows them, turned as their EXIF data says"
            )
        scales.append((images.shape[1] / h, images.shape[2] / w))
    return images, scales


def _scaled(boxes: NDArray[np.float64], scale: tuple[float, float], sides: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes in pixels of the scaled picture; what is over the edge by a pixel of the original is cut off."""
    factor, most = np.array([*scale[::-1], *scale[::-1]]), np.array([*sides[::-1], *sides[::-1]])
    scaled = boxes * factor
    clipped = scaled.clip(0.0, most)
    found: NDArray[np.float64] = np.where(np.abs(scaled - clipped) <= OVER * factor, clipped, scaled)
    return found
