"""A run's folder: what was run, the agent, its checkpoints, the results."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import save_backbone
from agentlib.backbones.files import json_from
from agentlib.core.learner import Learner
from agentlib.core.names import one_line, shown
from agentlib.core.source import Source
from agentlib.plots.report import provenance, write_json
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint, segments_named
from agentlib.runs.models import save_model
from agentlib.runs.segments import DamagedFile, Segments

CHECKPOINT = re.compile(r"step_[0-9]{12,}\.safetensors")
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp|\.tmp[0-9A-Za-z]{6}")
"""The names of files that a killed run was writing: ours, and those of safetensors."""
KEEP = 2
"""Checkpoints kept besides the agent."""


class RunFolder:
    """Has `config.json`, `agent.safetensors`, `best_agent.safetensors`, `checkpoints/`, events and `results.json`.

    Large replay memories are in `replay/`, in files that are written once; checkpoints name those that they need.
    Where no agent comes out, `model.safetensors` is the trained network, and `backbone.safetensors` the part of it that
    other learners can go on with.
    """

    def __init__(self, path: str | Path) -> None:
        self.given = Path(path)
        """As the caller says it, for messages."""
        self.path = self.given.absolute()  # the program may change its folder meanwhile
        self.segments = Segments(self.path / "replay")

    @property
    def config_file(self) -> Path:
        """What `create` writes."""
        return self.path / "config.json"

    @property
    def results_file(self) -> Path:
        """What a run writes when it ends."""
        return self.path / "results.json"

    def check(self, is_new: bool = False) -> None:
        """Raises ValueError where a run could change files that are not its own.

        A new run needs an empty folder, but for hidden files; any run one without links that lead elsewhere.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.given} is a file, and a run needs a folder")
        if is_new and self.config_file.exists():
            hint = f"choose another folder with out=..., or go on with resume={str(self.given)!r}"
            raise ValueError(f"{self.given} holds a run already: {hint}")
        for place in (self.path, self.path / "checkpoints", self.path / "videos", self.segments.folder):
            for entry in sorted(place.iterdir()) if place.is_dir() else ():
                where = f"{shown(entry.name)} in {entry.parent}"
                if entry.is_symlink():
                    raise ValueError(f"{where} is a symbolic link, which no run follows: put the file itself there")
                if is_new and not entry.name.startswith("."):
                    raise ValueError(f"{where} is of no run: a new run needs a folder that is empty, or not there yet")

    def create(self, record: Mapping[str, Any]) -> None:
        """Makes the folder and writes `config.json`.

        Raises:
            ValueError: the folder holds a run already, or other things.
        """
        self.check(is_new=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.sweep()
        write_json(self.config_file, {**record, **provenance()})

    def lengthen(self, steps: int | None) -> None:
        """Writes another length into `config.json`: the run goes on to it, wherever it is stopped."""
        write_json(self.config_file, self.record() | {"steps": steps})

    def record(self) -> dict[str, Any]:
        """The content of `config.json`.

        Raises:
            FileNotFoundError: no run in this folder.
            ValueError: the file is damaged.
        """
        path = self.config_file
        if not path.is_file():
            raise FileNotFoundError(f"no run in {self.given}: it has no {path.name}")
        try:
            record = json_from(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path} is damaged: it does not hold the fields of a run")
        return record

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = (self.path / "checkpoints").glob("step_*.safetensors")
        return sorted(path for path in found if CHECKPOINT.fullmatch(path.name))

    def save(self, learner: Learner, source: Source, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint; only the last ones are kept."""
        folder = self.path / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / f"step_{int(source.clock.steps):012d}.safetensors"
        save_checkpoint(checkpoint, learner, source, extra, self.segments)
        for old in self.checkpoints()[:-KEEP]:
            if old.is_file():
                old.unlink()
        with suppress(DamagedFile):  # one that cannot be read may need any of them
            self.segments.clean(name for kept in self.checkpoints() for name in segments_named(kept))
        return checkpoint

    def save_product(self, product: Any, about: Mapping[str, Any]) -> None:
        """Writes the agent; or where none comes out, the model with these notes, and the backbone in it."""
        if isinstance(product, Agent):
            product.save(self.path / "agent.safetensors")
            return
        if isinstance(product, nn.Module):
            with suppress(ValueError):  # a network of one's own that no file could describe stays in the checkpoint
                save_model(product, self.path / "model.safetensors", about)
        if isinstance(backbone := getattr(product, "backbone", None), nn.Module):
            with suppress(ValueError):
                save_backbone(backbone, self.path / "backbone.safetensors")

    def sweep(self) -> None:
        """Deletes what a killed run was writing."""
        for folder in (self.path, self.path / "checkpoints", self.segments.folder):
            for file in folder.glob(".*"):
                if HALF_WRITTEN.fullmatch(file.name) and file.is_file():
                    file.unlink(missing_ok=True)

    def load(self, learner: Learner, source: Source) -> dict[str, Any]:
        """Puts the newest checkpoint into a learner and a source of the same structure; returns its `extra`.

        Where that is damaged, it warns, and takes the one before.

        Raises:
            FileNotFoundError: no checkpoint.
            DamagedFile: all of them are damaged.
            ValueError: what else `load_checkpoint` raises.
        """
        found = self.checkpoints()
        if not found:
            raise FileNotFoundError(f"{self.path} has no checkpoint to go on from")
        for path in reversed(found):
            try:
                return load_checkpoint(path, learner, source, self.segments)
            except DamagedFile as error:
                if path == found[0]:
                    raise
                warnings.warn(f"{error}; going on from the checkpoint before it", stacklevel=2)
                path.replace(path.with_suffix(".damaged"))
        raise AssertionError  # the loop returns or raises
