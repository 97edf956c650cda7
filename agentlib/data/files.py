"""Data sets from files: tables (CSV), arrays (.npz) and folders of images.

A file may say itself which examples are for training and which for testing; then what is read are parts by name, such
as {"train": ..., "test": ...}, and otherwise one data set.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from agentlib.data.datasets import Dataset, check_numbers
from agentlib.data.mapped import room_for

Loaded = Dataset | dict[str, Dataset]

PART_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation",
              "valid": "validation", "dev": "validation", "test": "test"}  # fmt: skip
"""Names under which a file may give its parts, and what we call them."""
ARRAY_NAMES = {"x": "x", "data": "x", "images": "x", "y": "y", "targets": "y", "labels": "y"}
"""Words for examples and for what is to be predicted, and what we call them."""
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
"""Texts in a table that mean a missing value, in lower case."""


def load_csv(path: str | Path, target: str | None = None) -> Dataset:
    """A table of numbers, one example per line; the delimiter is a comma, a semicolon or a tab.

    Args:
        path: of the file. If its first line holds no numbers, it holds the columns' names.
        target: name of the column to predict; the last one by default. Texts in it are classes, numbers are numbers.

    Raises:
        ValueError: a value is missing or is no number, naming row and column; or lines differ in length.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError(f"{path} is empty")
    names = [f"column {i + 1}" for i in range(len(rows[0][1]))]
    if not any(_is_number(cell) for cell in rows[0][1]):
        names = [name.strip() for name in rows.pop(0)[1]]
    chosen = target if target is not None else names[-1]
    if chosen not in names:
        raise ValueError(f"{path} has no column {chosen!r}; it has {', '.join(names)}")
    _check_cells(path, names, rows, chosen)
    cells = np.array([[cell.strip() for cell in row] for _, row in rows])
    y = cells[:, names.index(chosen)]
    x = torch.from_numpy(np.delete(cells, names.index(chosen), axis=1).astype(np.float64)).float()  # (N, columns)
    if all(map(_is_number, y)):
        return Dataset(x, torch.from_numpy(y.astype(np.float64)).float())
    classes, labels = np.unique(y, return_inverse=True)
    return Dataset(x, torch.from_numpy(labels).long(), tuple(map(str, classes)))


def _check_cells(path: Path, names: list[str], rows: Sequence[tuple[int, list[str]]], target: str) -> None:
    if not rows:
        raise ValueError(f"{path} has names of columns, and no examples")
    missing, texts = [], []
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{path}, row {line}: {len(row)} values, but there are {len(names)} columns")
        for name, cell in zip(names, row, strict=True):
            if cell.strip().lower() in MISSING:
                missing.append(f"row {line}, column {name!r}")
            elif name != target and not _is_number(cell):
                texts.append(f"row {line}, column {name!r}: {cell.strip()!r} is no number")
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"{path}, {missing[0]}: no value{more}; fill it in, or leave the row or the column out")
    if texts:
        raise ValueError(f"{path}, {texts[0]}; only the column to predict ({target!r}) may hold text")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def load_npz(path: str | Path) -> Loaded:
    """Arrays: `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test`; nothing is unpickled.

    `data` or `images`, and `targets` or `labels`, are other names of x and y, and the part may stand first: `x_train`
    is Keras's name, `train_data` and `train_labels` have been torchvision's. Integers in `y` are labels, named by an
    array `classes` or by themselves. uint8 arrays in `x` are images, `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`,
    and are divided by 255.

    Raises:
        ValueError: the arrays are not there, or do not fit.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    names = tuple(map(str, arrays["classes"])) if "classes" in arrays else ()
    given: dict[tuple[str, str], list[str]] = {}
    for name in arrays:
        words = name.lower().split("_")
        kinds, of = ([names_of[w] for w in words if w in names_of] for names_of in (ARRAY_NAMES, PART_NAMES))
        if len(kinds) == 1 and len(of) == len(words) - 1 <= 1:
            given.setdefault((of[0] if of else "", kinds[0]), []).append(name)
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for (part, kind), candidates in given.items():
        first = [name for name in candidates if kind in name.lower().split("_")] or candidates  # before other names
        if len(first) > 1:
            raise ValueError(f"{path} has more than one array for {kind}: {', '.join(first)}; rename all but one")
        found.setdefault(part, {})[kind] = arrays[first[0]]
    parts = {part: (both["x"], both.get("y")) for part, both in found.items() if "x" in both}
    if "" in parts and ("x" in arrays or "train" not in parts):
        return from_arrays(*parts[""], names)
    parts.pop("", None)
    if "train" not in parts or "test" not in parts:
        listed = ", ".join(arrays) or "nothing"
        raise ValueError(f"{path} needs arrays x and y, or x_train, y_train, x_test and y_test; it has {listed}")
    labels = [y for _, y in parts.values() if y is not None and y.dtype.kind in "iub"]
    if not names and labels:  # the same numbers for the same labels in each part
        names = tuple(map(str, np.unique(np.concatenate([y.ravel() for y in labels]))))
    return {part: from_arrays(x, y, names) for part, (x, y) in parts.items()}


def from_arrays(x: ArrayLike, y: ArrayLike | None = None, classes: Sequence[str] = ()) -> Dataset:
    """A data set of arrays, or of what numpy makes arrays of: lists, tensors on the CPU, columns of a DataFrame.

    Args:
        x: examples; uint8 arrays of three or four axes are images.
        y: labels (integers or texts) or numbers.
        classes: names of the labels; by default the labels that occur. Labels that are none of the names are taken as
            indices from 0.

    Raises:
        ValueError: labels that are none of the classes, or several for one example; complex numbers, or no array.
    """
    x = np.asarray(x)
    check_numbers("x", x.dtype.kind == "c", x.ndim)
    images = torch.from_numpy(pixels(x) if x.dtype == np.uint8 and x.ndim > 2 else x.astype(np.float32))
    if y is None:
        return Dataset(images)
    y = np.asarray(y)
    check_numbers("y", y.dtype.kind == "c", y.ndim)
    y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 and y.dtype.kind != "f":
        raise ValueError(f"y has shape {y.shape}: give one label for each example; of one-hot rows, y.argmax(1)")
    if y.dtype.kind == "f":
        return Dataset(images, torch.from_numpy(y.astype(np.float32)))
    found = list(map(str, np.unique(y)))
    names = list(classes or found)
    if set(found) <= set(names):
        index = {name: i for i, name in enumerate(names)}
        return Dataset(images, torch.from_numpy(np.array([index[str(label)] for label in y])), tuple(names))
    if y.dtype.kind not in "iub":
        unknown = sorted(set(found) - set(names))
        raise ValueError(f"label {unknown[0]!r} is none of the classes {', '.join(names)}")
    return Dataset(images, torch.from_numpy(y.astype(np.int64)), tuple(names))


def pixels(x: NDArray[np.uint8], channels_last: bool = False) -> NDArray[np.float32]:
    """uint8 images of the usual layouts as `(N, C, H, W)` between 0 and 1; vectors of bytes likewise."""
    if x.ndim == 3:
        x = x[:, None]
    elif channels_last or (x.shape[-1] in (1, 3, 4) and x.shape[1] > x.shape[-1]):
        x = np.moveaxis(x, -1, 1)
    return np.divide(x, np.float32(255), out=room_for(x.shape, np.float32))  # type: ignore[no-any-return]


def load_images(path: str | Path, size: tuple[int, int] | None = None) -> Loaded:
    """Images in one folder per class, or in such folders below `train` and `test` (and `validation`).

    Where there are no such folders, the images in the folder itself, without labels.

    Grey images stay grey if all are; otherwise all become colour images. They are turned as their EXIF data says, and
    transparent parts are white.

    Args:
        path: the folder.
        size: height and width to which every image is scaled; without it, all must have one size.

    Raises:
        ValueError: a class without images, images of several sizes, or a file that is no image; it says which.
        ImportError: Pillow is absent; the message names the extra.
    """
    folders = _subfolders(Path(path))
    if not folders:
        files = _images(Path(path))
        if not files:
            raise ValueError(f"{path} has no subfolders, one for each class, and no images either")
        return load_pictures(files, size)
    known = {PART_NAMES[folder.name.lower()]: folder for folder in folders if folder.name.lower() in PART_NAMES}
    parts = {part: known[part] for part in ("train", "validation", "test") if part in known}
    if "train" not in parts or "test" not in parts:
        return _load_classes(folders, size)
    classes = [tuple(one.name for one in _subfolders(folder)) for folder in parts.values()]
    if len(set(classes)) > 1:
        listed = "; ".join(f"{part}: {', '.join(names)}" for part, names in zip(parts, classes, strict=True))
        raise ValueError(f"the parts of {path} have different classes: {listed}")
    return {part: _load_classes(_subfolders(folder), size) for part, folder in parts.items()}


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _subfolders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _load_classes(folders: Iterable[Path], size: tuple[int, int] | None) -> Dataset:
    files: list[Path] = []
    labels: list[int] = []
    classes: list[str] = []
    for folder in folders:
        images = _images(folder)
        if not images:
            raise ValueError(f"class {folder.name!r} has no images: {folder} holds none of "
                             f"{', '.join(sorted(IMAGE_SUFFIXES))}")  # fmt: skip
        files += images
        labels += [len(classes)] * len(images)
        classes.append(folder.name)
    return Dataset(load_pictures(files, size).x, torch.tensor(labels), tuple(classes))


def load_pictures(pictures: Sequence[Any], size: tuple[int, int] | None = None) -> Dataset:
    """Images without labels: files, or images of Pillow; the rest is as in `load_images`.

    One at a time is in memory twice. Where all are large together, they are put into a file (`agentlib.data.mapped`).
    """
    found: NDArray[np.float32] = np.empty((len(pictures), 0, 0, 0), np.float32)
    first_of: dict[tuple[int, ...], int] = {}  # picture of each size
    for row, one in enumerate(pictures):
        picture = np.moveaxis(_read_image(Path(one), size) if _is_file(one) else _converted(one, size), -1, 0)
        first_of.setdefault(picture.shape[1:], row)
        if len(first_of) > 1:
            continue
        if picture.shape[0] > found.shape[1]:  # the first one, or the first of colour
            before, found = found[:row], room_for((len(pictures), *picture.shape), np.float32)
            if row:
                found[:row] = before
        np.divide(picture, np.float32(255), out=found[row])
    if len(first_of) > 1:
        names = [pictures[row] if _is_file(pictures[row]) else f"picture {row}" for row in first_of.values()]
        listed = ", ".join(f"{name} is {h}x{w}" for name, (h, w) in list(zip(names, first_of, strict=True))[:2])
        raise ValueError(
            f"images of {len(first_of)} sizes: {listed}. Scale them to one: load_images(path, size=(height, width)) of "
            "agentlib.data, data='FOLDER#HEIGHTxWIDTH', or --image-size HEIGHTxWIDTH"
        )
    return Dataset(torch.from_numpy(found))


def _is_file(picture: Any) -> bool:
    return isinstance(picture, str | Path)


def _read_image(file: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """`(H, W, C)`, with one channel if the image is grey, else three."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images are read with Pillow: pip install 'agentlib-rl[vision]'") from None
    try:
        with Image.open(file) as image:
            return _converted(image, size)
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{file} is no image that can be read: {error}") from None


def _converted(image: Any, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """An image of Pillow as `_read_image` gives it."""
    picture = as_shown(image)
    if size is not None:
        picture = picture.resize((size[1], size[0]))
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def as_shown(image: Any) -> Any:
    """An image of Pillow's as a viewer shows it: turned as its EXIF data says, transparent parts white, grey or RGB.

    Grey values of 16 bits are scaled to 8, as Pillow does it with colours of 16 bits.

    Raises:
        ValueError: its grey values are of other kinds, which have no white.
    """
    from PIL import Image, ImageOps

    mode = "L" if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else "RGB"
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # Pillow has cut the colours of 16 bits, and not this one
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.has_transparency_data:  # the colours under it may be anything
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits in 8, with an alpha channel where one of its values is transparent."""
    from PIL import Image

    grey = np.asarray(image)
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(f"pixels of {grey.dtype} from {grey.min()} to {grey.max()} are not of 8 or 16 bits")
    shown = np.rint(grey / 257.0).astype(np.uint8)  # 65535 is 255
    clear = image.info.get("transparency")
    if clear is None:
        return Image.fromarray(shown)
    return Image.fromarray(np.stack([shown, np.where(grey == clear, 0, 255).astype(np.uint8)], -1), "LA")
