"""Demonstrations on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.backbones.files import read, write_tensors
from agentlib.core.spaces import space_to_json

FILE_KIND, FILE_VERSION = "agentlib demonstrations", 1


def save_demonstrations(
    path: str | Path,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    env_id: str | None,
    columns: dict[str, NDArray[Any]],
) -> Path:
    """Writes the file, whole or not at all; returns its path (suffix .safetensors)."""
    description = {
        "file": FILE_KIND,
        "version": FILE_VERSION,
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
        "env": env_id,
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    return write_tensors(path, tensors, description)


def load_demonstrations(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description, and the columns, in a file that `save_demonstrations` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no demonstrations, or is of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file with demonstrations at {path}")
    return read(path, FILE_KIND, FILE_VERSION)
