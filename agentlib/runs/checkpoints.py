"""State on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agentlib.backbones.files import checksum, replacing, tensors_of
from agentlib.core.learner import Learner
from agentlib.core.names import one_line
from agentlib.core.source import Source
from agentlib.experience.ring import Ring
from agentlib.runs.segments import SMALL, DamagedFile, Segments, StoredRing, segments_from_json

FORMAT = "agentlib state"
VERSION = 1
"""Version of the format that is written now. Until the first release a change of the format needs no migration."""
DTYPES = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
}  # fmt: skip
"""The dtypes that safetensors can hold in every version that we allow."""


def save_checkpoint(
    path: str | os.PathLike[str],
    learner: Learner,
    source: Source,
    extra: Mapping[str, Any] | None = None,
    segments: Segments | None = None,
) -> None:
    """Writes all that a run needs to go on, and what the caller needs itself, `extra`, as `save_state` does.

    Large replay memories go into `segments`, as far as they are not there yet; without it into the file.
    """
    parts = {"learner": learner.state_dict(), "source": source.state_dict(), "extra": dict(extra or {})}
    save_state(path, {"learner_class": _name_of(learner), **parts}, segments)


def load_checkpoint(
    path: str | os.PathLike[str], learner: Learner, source: Source, segments: Segments | None = None
) -> dict[str, Any]:
    """Puts a checkpoint's state into a learner and a source of the same structure; returns `extra`.

    `segments` are those that `save_checkpoint` was given. On an error a part may have been loaded already.

    Raises:
        FileNotFoundError: no such file.
        DamagedFile: the file, or a segment that it needs, was cut short or has changed.
        ValueError: the file is no checkpoint, or one of another learner or structure, or of a later version.
    """
    state = load_state(path, segments)
    if not isinstance(state, dict) or set(state) != {"learner_class", "learner", "source", "extra"}:
        raise ValueError(f"{path} holds a state of agentlib, but no checkpoint of a run")
    if state["learner_class"] != _name_of(learner):
        raise ValueError(f"{path} is a checkpoint of {one_line(state['learner_class'])}, not of {_name_of(learner)}")
    for part, module in (("learner", learner), ("source", source)):
        try:
            module.load_state_dict(state[part])
        except DamagedFile:
            raise
        except Exception as error:  # whatever a state of another structure, or one made to do harm, leads to
            raise ValueError(f"{path} does not fit the {part} {_name_of(module)}: {one_line(error)}") from error
    extra: dict[str, Any] = state["extra"]
    return extra


def _name_of(module: torch.nn.Module) -> str:
    # Without the package: a script's own learner is `__main__.X` in one process and `script.X` in another.
    return type(module).__qualname__


def save_state(path: str | os.PathLike[str], state: Any, segments: Segments | None = None) -> None:
    """Writes a tree of dicts, lists and tuples to one file; the file at `path` is replaced whole or not at all.

    Leaves are tensors, numpy arrays, numbers, strings, bools and None; keys of dicts are strings or ints. Tensors of
    any device and layout in memory are taken; two that are the same memory still are when they are loaded.

    Raises:
        TypeError: something else is in the tree; the message says where.
    """
    writer = _Writer(segments)
    tree = json.dumps(writer.encode(state, "state"), allow_nan=False, separators=(",", ":"))
    files = json.dumps(sorted(writer.segment_files))
    metadata = {"format": FORMAT, "version": str(VERSION), "tree": tree, "segments": files}
    metadata["checksum"] = checksum(_covered(metadata), writer.tensors)
    with replacing(path) as temporary:
        save_file(writer.tensors, temporary, metadata)


def load_state(path: str | os.PathLike[str], segments: Segments | None = None) -> Any:
    """The tree that `save_state` wrote, with its tensors on the CPU.

    Raises:
        FileNotFoundError: no such file.
        DamagedFile: the file was cut short, or has changed.
        ValueError: the file was not written by `save_state`, or by a later version of agentlib.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no file {path}")
    _check_regular(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            _check_version(path, metadata)
            tensors = tensors_of(file)
    except SafetensorError as error:
        raise DamagedFile(f"{path} is cut off, or no safetensors file at all: {one_line(error)}") from None
    if metadata.get("checksum") != checksum(_covered(metadata), tensors):
        raise DamagedFile(f"{path} is damaged: its checksum is another one")
    try:
        return decode(json.loads(metadata["tree"]), tensors, segments)
    except Exception as error:  # whatever metadata that nobody wrote lead to
        raise DamagedFile(f"{path} is damaged: its metadata cannot be read ({one_line(repr(error))})") from None


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Opening a pipe would wait for ever."""
    if not Path(path).is_file():
        raise DamagedFile(f"{path} is no regular file")


def _covered(metadata: Mapping[str, str]) -> str:
    """The text that the checksum is of."""
    return metadata["version"] + " " + metadata.get("tree", "") + metadata.get("segments", "")


def _check_version(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but no state that agentlib saved")
    number = metadata.get("version", "")
    if not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) < 1:
        raise DamagedFile(f"{path} is damaged: it says that it has version {number[:80]!r}")
    if int(number) > VERSION:
        raise ValueError(
            f"{path} has version {number} of the format, and this agentlib reads up to {VERSION}: update agentlib"
        )


def segments_named(path: str | os.PathLike[str]) -> list[str]:
    """The files of segments that a checkpoint needs; only its head is read.

    Raises:
        DamagedFile: the head cannot be read.
    """
    _check_regular(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return list(json.loads((file.metadata() or {}).get("segments", "[]")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedFile(f"{path} cannot be read: {one_line(error)}") from None


class _Writer:
    """Takes the tensors out of a tree. Containers become tagged, so that tuples and int keys come back as they were."""

    def __init__(self, segments: Segments | None) -> None:
        self.segments, self.segment_files = segments, set[str]()
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}  # of tensors by what they look at
        self._storages: set[int] = set()
        self._alive: list[Tensor] = []  # so that no address is used twice while we compare addresses

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return {"tensor": self._add(value.detach(), where)}
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise TypeError(f"{where} is an array of {value.dtype}, which a state cannot hold")
            native = np.array(value, value.dtype.newbyteorder("="), order="C")
            return {"array": self._add(torch.from_numpy(native), where)}
        if isinstance(value, Ring):
            return {"ring": self._ring(value, where)}
        if isinstance(value, Mapping):
            wrong = [key for key in value if not isinstance(key, str | int) or isinstance(key, bool)]
            if wrong:
                raise TypeError(f"{where} has the key {wrong[0]!r}: keys are strings or ints")
            return {"dict": [[key, self.encode(item, f"{where}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{where}.{i}") for i, item in enumerate(value)]
            return {"list" if isinstance(value, list) else "tuple": items}
        raise TypeError(
            f"{where} is a {type(value).__name__}: a state holds tensors, arrays, numbers, strings, bools, None, and "
            "dicts, lists and tuples of them"
        )

    def _ring(self, ring: Ring, where: str) -> dict[str, Any]:
        column, counts = ring
        if self.segments is None or column.numel() * column.element_size() < SMALL:
            filled = min(max(counts), column.shape[1])
            return {"counts": counts, "column": self._add(column[:, :filled].detach(), where)}
        written = self.segments.write(where, ring)
        self.segment_files |= {segment.file for segment in written}
        return {"counts": counts, "capacity": column.shape[1], "place": where, "segments": written}

    def _add(self, tensor: Tensor, where: str) -> str:
        if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            raise TypeError(f"{where} is a tensor of {tensor.dtype}, {tensor.layout}, which a state cannot hold")
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if view in self._names:
            return self._names[view]
        name = where
        while name in self.tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        self._alive.append(tensor)
        storage = tensor.untyped_storage().data_ptr()
        # safetensors writes dense tensors that share nothing; what is neither is copied, and nothing else.
        if tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous() or storage in self._storages:
            tensor = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        self._storages.add(storage)
        self.tensors[name], self._names[view] = tensor, name
        return name


def decode(value: Any, tensors: dict[str, Tensor], segments: Segments | None) -> Any:
    """The tree that `_Writer.encode` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: decode(item, tensors, segments) for key, item in content}
    if kind in ("list", "tuple"):
        items = [decode(item, tensors, segments) for item in content]
        return items if kind == "list" else tuple(items)
    if kind != "ring":
        raise KeyError(kind)
    counts = [int(count) for count in content["counts"]]
    if "column" in content:
        return Ring(tensors[content["column"]], counts)
    if segments is None:
        raise ValueError("its replay memory is in segments, and no folder was given")
    found = segments_from_json(content["segments"])
    segments.saved[content["place"]] = found
    return StoredRing(segments.folder, found, counts, int(content["capacity"]))
