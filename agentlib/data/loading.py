"""Any data that a run can be given, as one data set or as its three parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from agentlib.core.names import close_matches, shown
from agentlib.data.datasets import DATASETS, Dataset, Splits, split
from agentlib.data.files import Loaded, from_arrays, load_csv, load_images, load_npz, load_pictures
from agentlib.data.hugging_face import SAVED_FILES, from_hugging_face, is_hugging_face, load_hub, load_saved

HUB = "hf:"
"""Before the name of a data set of Hugging Face's Hub."""


def parts(
    data: Any,
    seed: int = 0,
    validation: float = 0.15,
    test: float = 0.3,
    predict: Literal["classes", "numbers"] | None = None,
) -> Splits:
    """The training, validation and test part of any data; where it comes with a test part of its own, that one is kept.

    Args:
        data: a name, a path, `hf:owner/name` of the Hub, a `Dataset`, `Splits`, a pair of arrays (x, y), one array, a
            map-style `Dataset` of torch, a list of pictures or of pairs, any of these by part (train and test), or one
            of Hugging Face's.
        seed: of the random parts.
        validation: share of the examples to choose by.
        test: share of the examples to report on.
        predict: what the targets shall be, see `Dataset.with_classes` and `Dataset.with_numbers`; None leaves them.

    Raises:
        ValueError: unknown data, or data that does not fit; the message says what would.
        FileNotFoundError: nothing is at the path.
        ImportError: an extra is needed; the message names it.
    """
    found = loaded(data)
    if isinstance(found, Dataset):
        return split(_predicting(found, predict), seed, validation, test)
    found = {name: _predicting(part, predict) for name, part in found.items()}
    for name, part in found.items():
        if part.classes != found["train"].classes or part.x.shape[1:] != found["train"].x.shape[1:]:
            both = {one: found[one] for one in ("train", name)}
            listed = [f"{one}: {', '.join(it.classes)}, {tuple(it.x.shape[1:])}" for one, it in both.items()]
            raise ValueError(f"the parts differ in their classes or shapes: {'; '.join(listed)}")
    if "validation" in found:
        return Splits(found["train"], found["validation"], found["test"])
    rest = split(found["train"], seed, validation, test=0.0)
    return Splits(rest.train, rest.validation, found["test"])


def dataset(data: Any) -> Dataset:
    """All examples of any data, as `parts` takes it.

    Raises:
        ValueError: what `parts` raises; or the data comes in parts, which are not to be mixed.
    """
    found = loaded(data)
    if not isinstance(found, Dataset):
        raise ValueError(f"the data comes in parts ({', '.join(found)}), which stay apart: use agentlib.data.parts")
    return found


def load(path: str | Path) -> Loaded:
    """The data in a file or folder: .csv, .npz, a folder of images by class, or what `datasets` saved to disk.

    `table.csv#COLUMN` names the column of a table that is to be predicted; otherwise it is the last one.
    `folder#32`, or `folder#HEIGHTxWIDTH`, scales the images of a folder.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of these, or something in it does not fit; the message says where.
        ImportError: an extra is needed; the message names it.
    """
    text, _, column = str(path).partition("#")
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if path.is_dir():
        saved = any((path / name).is_file() for name in SAVED_FILES)
        return load_saved(path) if saved else load_images(path, image_size(column) if column else None)
    if path.suffix.lower() in (".csv", ".tsv"):
        return load_csv(path, column or None)
    if path.suffix.lower() == ".npz":
        return load_npz(path)
    known = ".csv, .tsv, .npz, or a folder of images, such as one with a subfolder per class"
    raise ValueError(f"{path} is of no kind that is known: {known}")


def loaded(data: Any) -> Loaded:
    """Any data as `parts` takes it: one data set, or its parts by name where it comes in such."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Splits):
        return data._asdict()
    if isinstance(data, str) and data in DATASETS:
        return DATASETS[data]()
    if isinstance(data, str) and data.startswith(HUB):
        return load_hub(data.removeprefix(HUB))
    if isinstance(data, Path) or (isinstance(data, str) and is_path(data)):
        return load(data)
    if isinstance(data, str):
        others = f"or give the path of a file, or {HUB}owner/name"
        raise ValueError(f"unknown data set {data!r}{close_matches(data, DATASETS)}; {others}")
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data)
    if is_hugging_face(data):
        return from_hugging_face(data)
    if isinstance(data, Mapping) and {"train", "test"} <= set(data):
        return {name: dataset(part) for name, part in data.items()}
    if isinstance(data, TensorDataset) and len(data.tensors) <= 2:
        x, *y = data.tensors
        return from_arrays(x, y[0] if y else None)
    if isinstance(data, np.ndarray | Tensor):
        return from_arrays(data)
    if isinstance(data, list | TorchDataset) and hasattr(data, "__len__"):
        return _from_items([data[row] for row in range(len(data))], getattr(data, "classes", ()))
    known = f"a name ({', '.join(DATASETS)}), a path, a Dataset or a pair of arrays (x, y)"
    known += ", one array, a map-style Dataset of torch, or a list of pictures"
    raise ValueError(f"data is {known}, not {type(data).__name__}")


def _predicting(data: Dataset, what: Literal["classes", "numbers"] | None) -> Dataset:
    if what is None:
        return data
    return data.with_classes() if what == "classes" else data.with_numbers()


def is_path(text: str) -> bool:
    """Whether a text is meant as a path, and not as a name."""
    name = text.partition("#")[0]
    return Path(name).exists() or "/" in name or "\\" in name or bool(Path(name).suffix)


def _from_items(items: list[Any], classes: Sequence[str]) -> Dataset:
    """Examples one by one, or pairs (x, y) of them: pictures of Pillow, their files, arrays or tensors.

    Raises:
        ValueError: there are none, or they differ in their shapes.
    """
    if not items:
        raise ValueError("the data is empty: it has no examples")
    sizes = {len(item) if isinstance(item, tuple) else 1 for item in items}
    if not sizes <= {2} and sizes != {1}:
        raise ValueError(f"each example is x or a pair (x, y), and the first is a {shown(items[0])}")
    x, y = zip(*items, strict=True) if sizes == {2} else (items, None)
    if isinstance(x[0], str | Path) or hasattr(x[0], "convert"):
        data = load_pictures(x)
        return data if y is None else replace(from_arrays(np.zeros(len(y)), np.asarray(y), classes), x=data.x)
    arrays = [np.asarray(one) for one in x]
    other = next((row for row, one in enumerate(arrays) if one.shape != arrays[0].shape), None)
    if other is not None:
        hint = "; a pair of arrays is a tuple, data=(x, y)" if len(items) == 2 else ""
        raise ValueError(f"example 0 has the shape {arrays[0].shape}, example {other} {arrays[other].shape}{hint}")
    return from_arrays(np.stack(arrays), None if y is None else np.asarray(y), classes)


def image_size(text: str) -> tuple[int, int]:
    """Height and width of "32" or "32x48"."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None or "0" in (found[1], found[2]):
        raise ValueError(f"the size of images is SIDE or HEIGHTxWIDTH, such as 32 or 32x48, not {shown(text)}")
    return int(found[1]), int(found[2] or found[1])
