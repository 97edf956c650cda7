"""Demonstrations on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gymnasium import spaces
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from agentlib.backbones.files import replacing, with_suffix
from agentlib.core.spaces import space_from_json, space_to_json, to_actions

FILE_KIND, FILE_VERSION = "agentlib demonstrations", 1


class Recorded(Protocol):
    """`Demonstrations`, as far as they are written and read here and in `minari_datasets`."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    env_id: str | None

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def reserve(self, steps: int, episodes: int) -> None: ...
    def append(self, episode: Any) -> None: ...
    def column(self, name: str) -> NDArray[Any]: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None: ...


AnyRecorded = TypeVar("AnyRecorded", bound=Recorded)


def save_demonstrations(demonstrations: Recorded, path: str | Path) -> Path:
    """Writes the file, whole or not at all; returns its path (suffix .safetensors)."""
    path = with_suffix(path)
    description = {
        "file": FILE_KIND,
        "version": FILE_VERSION,
        "observation_space": space_to_json(demonstrations.observation_space),
        "action_space": space_to_json(demonstrations.action_space),
        "env": demonstrations.env_id,
    }
    with replacing(path) as temporary:
        save_file(demonstrations.state(), temporary, {"agentlib": json.dumps(description, allow_nan=False)})
    return path


def load_demonstrations(path: str | Path, make: Callable[..., AnyRecorded]) -> AnyRecorded:
    """The demonstrations in a file that `save_demonstrations` wrote.

    Args:
        path: of the file.
        make: the class `Demonstrations`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no demonstrations, or is of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file with demonstrations at {path}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut off, or no safetensors file at all: {error}") from None
    description = _description(path, metadata)
    try:
        made = make(
            space_from_json(description["observation_space"]),
            space_from_json(description["action_space"]),
            env_id=description["env"],
        )
        made.load_state(tensors)
        for name in ("action", "label"):
            to_actions(made.action_space, made.column(name))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return made


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        description = json.loads(metadata["agentlib"])
        kind, version = description["file"], int(description["version"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} holds no demonstrations: it does not say that agentlib wrote it") from None
    if kind != FILE_KIND:
        raise ValueError(f"{path} holds no demonstrations but {kind!r}")
    if version > FILE_VERSION:
        raise ValueError(f"{path} has version {version}, this agentlib reads up to {FILE_VERSION}: update agentlib")
    return dict(description)
