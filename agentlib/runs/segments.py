"""Replay memory on disk: rows of rings, in files that are written once, so that a checkpoint costs what changed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agentlib.backbones.files import checksum, replacing
from agentlib.core.names import shown
from agentlib.experience.ring import Ring, Rows, gathered, still_there, unsaved

FORMAT = "agentlib segment"
NAME = re.compile(r"[0-9]{8,12}\.safetensors")
"""The names of segments; a file of another name is none of ours."""
SMALL = 1 << 23
"""Rings of fewer bytes are written into each checkpoint whole."""
LARGE = 1 << 26
"""Bytes per file, and of memory that saving takes."""


class DamagedFile(ValueError):
    """A file of ours that was cut short, or whose bits have changed."""


class Segment(NamedTuple):
    """A file with some rows of a ring."""

    file: str
    rows: list[Rows]
    checksum: str


class Segments:
    """A folder of segments, made with the first one, and which of them hold the rings of the last checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: dict[str, list[Segment]] = {}
        """By the ring's place in the state; oldest first."""

    def write(self, place: str, ring: Ring) -> list[Segment]:
        """Writes the rows that are in no segment yet; returns the segments that hold the ring."""
        column, counts = ring
        capacity, saved = column.shape[1], self.saved.get(place, [])
        kept = [each for each in saved if any(still_there(counts, capacity, rows) for rows in each.rows)]
        before = [max((r.end for s in kept for r in s.rows if r.env == env), default=0) for env in range(len(counts))]
        most = max(LARGE // max(column[0, 0].numel() * column.element_size(), 1), 1)  # rows per file
        batch: list[Rows] = []
        for rows in unsaved(counts, capacity, before, most):
            if batch and sum(r.end - r.begin for r in batch) + rows.end - rows.begin > most:
                kept.append(self._write_file(column, batch))
                batch = []
            batch.append(rows)
        if batch:
            kept.append(self._write_file(column, batch))
        self.saved[place] = kept
        return kept

    def _write_file(self, column: Tensor, batch: list[Rows]) -> Segment:
        number = max((int(name.partition(".")[0]) for name in self._files()), default=0) + 1
        tensors = {f"{i:06d}": gathered(column, rows) for i, rows in enumerate(batch)}
        segment = Segment(f"{number:08d}.safetensors", batch, checksum(FORMAT, tensors))
        with replacing(self.folder / segment.file) as temporary:
            save_file(tensors, temporary, {"format": FORMAT})
        return segment

    def clean(self, needed: Iterable[str]) -> None:
        """Deletes the segments that no checkpoint needs any more."""
        for name in self._files() - set(needed):
            (self.folder / name).unlink()

    def _files(self) -> set[str]:
        return {path.name for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name)}


class StoredRing(NamedTuple):
    """A ring whose rows are in segments; read when it is copied, one file at a time."""

    folder: Path
    segments: list[Segment]
    counts: list[int]
    capacity: int

    def copy_to(self, column: Tensor) -> None:
        """Puts the rows into a column.

        Raises:
            DamagedFile: a segment is not there, or not as it was written.
        """
        for segment in self.segments:
            path = self.folder / segment.file
            try:
                with safe_open(path, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                    if checksum(FORMAT, tensors) != segment.checksum:
                        raise DamagedFile(f"{path} is damaged: its checksum is another one")
                    for rows, part in zip(segment.rows, (tensors[name] for name in sorted(tensors)), strict=True):
                        for there, here in rows.slots(column.shape[1]):
                            column[rows.env, there] = part[here].to(column.device)
            except (SafetensorError, OSError) as error:
                raise DamagedFile(f"{path} cannot be read: {error}") from None


def segments_from_json(value: Any) -> list[Segment]:
    """Segments from a checkpoint's JSON, which has named tuples as lists.

    Raises:
        ValueError: a file's name that is none of ours, and may lead elsewhere.
    """
    found = [Segment(str(file), [Rows(*map(int, rows)) for rows in each], str(digest)) for file, each, digest in value]
    for segment in found:
        if NAME.fullmatch(segment.file) is None:
            raise ValueError(f"a segment is called {shown(segment.file)}")
    return found
