"""A run's folder: what was run, the agent, its checkpoints, the results."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import save_backbone
from agentlib.core.learner import Learner
from agentlib.core.source import Source
from agentlib.plots.report import provenance, write_json
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint, segments_named
from agentlib.runs.models import save_model
from agentlib.runs.segments import DamagedFile, Segments

KEEP = 2
"""Checkpoints kept besides the agent."""


class RunFolder:
    """Has `config.json`, `agent.safetensors`, `best_agent.safetensors`, `checkpoints/`, events and `results.json`.

    Large replay memories are in `replay/`, in files that are written once; checkpoints name those that they need.
    Where no agent comes out, `model.safetensors` is the trained network, and `backbone.safetensors` the part of it that
    other learners can go on with.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.segments = Segments(self.path / "replay")

    @property
    def config_file(self) -> Path:
        """What `create` writes."""
        return self.path / "config.json"

    @property
    def results_file(self) -> Path:
        """What a run writes when it ends."""
        return self.path / "results.json"

    def create(self, record: Mapping[str, Any]) -> None:
        """Makes the folder and writes `config.json`.

        Raises:
            ValueError: the folder holds a run already.
        """
        if self.config_file.exists():
            hint = f"choose another folder with out=..., or go on with resume={str(self.path)!r}"
            raise ValueError(f"{self.path} holds a run already: {hint}")
        self.path.mkdir(parents=True, exist_ok=True)
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
            raise FileNotFoundError(f"no run in {self.path}: it has no config.json")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path} is damaged: it does not hold the fields of a run")
        return record

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*.safetensors"))

    def save(self, learner: Learner, source: Source, extra: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint; only the last ones are kept."""
        folder = self.path / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / f"step_{int(source.clock.steps):012d}.safetensors"
        save_checkpoint(checkpoint, learner, source, extra, self.segments)
        for old in self.checkpoints()[:-KEEP]:
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
            for half_written in folder.glob(".*.tmp"):
                half_written.unlink(missing_ok=True)

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
                path.rename(path.with_suffix(".damaged"))
        raise AssertionError  # the loop returns or raises
