"""Demonstrations on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gymnasium import spaces
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from agentlib.backbones.files import replacing, with_suffix
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
    path = with_suffix(path)
    description = {
        "file": FILE_KIND,
        "version": FILE_VERSION,
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
        "env": env_id,
    }
    with replacing(path) as temporary:
        save_file(columns, temporary, {"agentlib": json.dumps(description, allow_nan=False)})
    return path


def load_demonstrations(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The description, and the columns, in a file that `save_demonstrations` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut off, holds no demonstrations, or is of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file with demonstrations at {path}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut off, or no safetensors file at all: {error}") from None
    try:
        description = json.loads(metadata["agentlib"])
        kind, version = description["file"], int(description["version"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} holds no demonstrations: it does not say that agentlib wrote it") from None
    if kind != FILE_KIND:
        raise ValueError(f"{path} holds no demonstrations but {kind!r}")
    if version > FILE_VERSION:
        raise ValueError(f"{path} has version {version}, this agentlib reads up to {FILE_VERSION}: update agentlib")
    return description, columns
