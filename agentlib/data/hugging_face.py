"""Data sets of Hugging Face's `datasets` as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentlib.data.datasets import Dataset
from agentlib.data.files import PART_NAMES, Loaded, as_shown, from_arrays

LABEL_NAMES = ("label", "labels", "target", "y", "class")
"""Columns that are taken for what is to be predicted, if the caller names none."""
SAVED_FILES = ("dataset_info.json", "dataset_dict.json")
"""One of them is in a folder that `save_to_disk` made."""


def is_hugging_face(data: Any) -> bool:
    """Whether this is a `datasets.Dataset` or a `DatasetDict`; tells without importing `datasets`."""
    if isinstance(data, Mapping):
        return bool(data) and all(map(is_hugging_face, data.values()))
    return hasattr(data, "features") and hasattr(data, "with_format")


def load_hub(name: str) -> Loaded:
    """A data set of the Hub, `owner/name` or `owner/name#configuration`, or one in a local folder that looks like such.

    It is downloaded unless it is in the cache of `datasets`; no code of it is run.

    Raises:
        ImportError: `datasets` is absent; the message names the extra.
        ValueError: there is none of this name, or it cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(f"hf:{name} is loaded by `datasets`: pip install 'agentlib-rl[datasets]'") from None
    where, _, configuration = name.partition("#")
    try:
        found = datasets.load_dataset(where, configuration or None)
    except Exception as error:  # of the network, the Hub, or one of many file formats
        raise ValueError(f"the data set hf:{name} cannot be loaded: {str(error) or type(error).__name__}") from error
    return from_hugging_face(found)


def load_saved(path: str | Path) -> Loaded:
    """The data set that `save_to_disk` wrote into a folder.

    Raises:
        ImportError: `datasets` is absent; the message names the extra.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError(f"{path} was saved by `datasets`: pip install 'agentlib-rl[datasets]'") from None
    return from_hugging_face(datasets.load_from_disk(str(path)))


def from_hugging_face(data: Any, x: str | Sequence[str] | None = None, y: str | None = None) -> Loaded:
    """A `datasets.Dataset`, or a `DatasetDict` with parts, as ours.

    Args:
        data: from `datasets.load_dataset` or `load_from_disk`.
        x: the column with the examples, or several columns of numbers that stand side by side; by default the one
            column of images, or else all columns of numbers but `y`.
        y: the column with labels or numbers to predict; by default the one called label, labels, target, y or class.

    Raises:
        ValueError: the columns are not there, or do not fit; the message has those that are.
    """
    if isinstance(data, Mapping):
        known = {PART_NAMES.get(str(name).lower(), str(name)): part for name, part in data.items()}
        if len(known) == 1:
            return from_hugging_face(next(iter(known.values())), x, y)
        if "train" not in known or "test" not in known:
            raise ValueError(f"the data set needs parts train and test; it has {', '.join(known)}")
        return {name: _one_part(known[name], x, y) for name in ("train", "validation", "test") if name in known}
    return _one_part(data, x, y)


def _one_part(data: Any, x: str | Sequence[str] | None, y: str | None) -> Dataset:
    features = data.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    y = y if y is not None else next((name for name in LABEL_NAMES if name in kinds), None)
    columns = [x] if isinstance(x, str) else list(x or [])
    if not columns:
        images = [name for name, kind in kinds.items() if kind == "Image"]
        columns = images[:1] or [n for n in kinds if n != y and _is_numeric(features[n])]
    unknown = [name for name in (*columns, *([y] if y else [])) if name not in kinds]
    if unknown or not columns:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        what = f"no column {unknown[0]!r}" if unknown else "no columns of images or numbers"
        raise ValueError(f"the data set has {what}; it has {listed}. Name them: from_hugging_face(data, x=..., y=...)")
    has_images = any(kinds[name] == "Image" for name in columns)
    table = data.with_format(None if has_images else "numpy")[:]
    arrays = [_stacked(table[name], name) for name in columns]
    if len(arrays) > 1:
        flat = [array.reshape(len(array), -1).astype(np.float32) for array in arrays]
        arrays = [np.concatenate(flat, axis=1)]  # (N, numbers of all columns)
    classes = tuple(getattr(features[y], "names", None) or ()) if y else ()
    return from_arrays(arrays[0], np.asarray(table[y]) if y else None, classes)


def _is_numeric(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", getattr(getattr(feature, "feature", None), "dtype", "")))
    return dtype.startswith(("int", "uint", "float", "bool"))


def _stacked(column: Any, name: str) -> NDArray[Any]:
    rows = [np.asarray(as_shown(row) if _is_picture(row) else row) for row in column]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"the examples in column {name!r} differ in size: {' and '.join(map(str, list(shapes)[:2]))}")
    return np.stack(rows)


def _is_picture(row: Any) -> bool:
    """Whether this is an image of Pillow's with the usual 8 bits for each number."""
    return hasattr(row, "getexif") and not row.mode.startswith(("I", "F"))
