"""Networks on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agentlib.backbones.specs import Classes, from_spec, spec_of

KIND, VERSION = "agentlib backbone", 1


def save_backbone(backbone: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Writes a network to one file, its parameters and buffers, whole or not at all.

    Args:
        backbone: a network of ours, or one of your own with a `spec` (see `spec_of`).
        path: of the file; the suffix .safetensors is added where it lacks.

    Returns:
        The file's path.

    Raises:
        ValueError: the network has no spec, so that it could not be built again.
    """
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    description = {"file": KIND, "version": VERSION, "backbone": spec_of(backbone)}
    # Clones: safetensors does not write two names of one memory, such as tied weights.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in backbone.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"agentlib": json.dumps(description, allow_nan=False)})
    return path


def load_backbone(
    path: str | os.PathLike[str], classes: Classes | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """The network in a file that `save_backbone` wrote, in eval mode. No code of the file is run.

    Args:
        path: the file.
        classes: classes of your own by name, if the network is one of them or has any inside.
        device: where the network shall live.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no backbone, is of a newer version, or needs a class that was not given.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no backbone file at {path}")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no backbone file, or it is damaged: {error}") from None
    try:
        description = json.loads(metadata["agentlib"])
        kind, version = description["file"], int(description["version"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no backbone file: it does not say that agentlib wrote it") from None
    if kind != KIND:
        hint = ": Agent.load(path).backbone is its network" if kind == "agentlib agent" else ""
        raise ValueError(f"{path} is no backbone file but {kind!r}{hint}")
    if version > VERSION:
        raise ValueError(f"{path} has version {version}, this agentlib reads up to {VERSION}: update agentlib")
    with torch.random.fork_rng(devices=[]):  # the first weights, which are overwritten, are nobody's to draw
        network = from_spec(description.get("backbone"), classes)
    dtypes = {tensors[name].dtype for name, _ in network.named_parameters() if name in tensors}
    if len(dtypes) == 1:
        network.to(dtypes.pop())
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the network: {error}") from None
    return network.eval().to(device)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name in the same folder; what was written there takes the place of `path` at the end.

    Whoever reads `path` meanwhile, or after a crash, finds the old file or the new one, never a part. On an error the
    old file stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors would leave the file to its owner
        yield temporary
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, target)
        with suppress(OSError):  # a folder cannot be opened on every system; the file itself is safe
            _flush(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
