"""Networks on disk: one safetensors file whose metadata is JSON. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from agentlib.backbones.adaptation import merged
from agentlib.backbones.specs import Classes, from_spec, spec_of
from agentlib.core.names import one_line, shown
from agentlib.core.randomness import host_generator_kept
from agentlib.core.trees import leaves

Made = TypeVar("Made")

KIND, VERSION = "agentlib backbone", 1
TABLES = 1 << 24
"""Bytes that a network from a file may keep beside its weights: tables, such as a noise schedule, and its memory."""


def with_suffix(path: str | os.PathLike[str]) -> Path:
    """The path, ending in .safetensors."""
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{Path(path)}.safetensors")


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
    return write(path, backbone, {"file": KIND, "version": VERSION, "backbone": spec_of(backbone)})


def write(path: str | os.PathLike[str], network: nn.Module, description: dict[str, Any]) -> Path:
    """Writes a network and its description to one file, whole or not at all; returns its path."""
    # Clones: safetensors does not write two names of one memory, such as tied weights.
    weights = merged(network).state_dict()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    return write_tensors(path, tensors, description)


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], description: dict[str, Any]) -> Path:
    """Writes tensors, their description and a checksum of both, as `write` does."""
    path = with_suffix(path)
    description = {**description, "checksum": checksum(json.dumps(description, allow_nan=False), tensors)}
    with replacing(path) as temporary:
        # One entry of metadata: safetensors writes several in any order.
        save_file(tensors, temporary, metadata={"agentlib": json.dumps(description)})
    return path


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text, and of the names, dtypes, shapes and bytes of tensors."""
    found = hashlib.sha256(text.encode(), usedforsecurity=False)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        found.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.reshape(-1)
        if flat.stride() != (1,):
            flat = flat.clone(memory_format=torch.contiguous_format)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


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
    description, tensors = read(path, KIND, VERSION)
    return rebuilt(path, description.get("backbone"), tensors, classes).to(device)


def header(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """The metadata of a safetensors file, and dtype and shape of each tensor; no tensor is read.

    Raises:
        ValueError: the file is damaged, or no safetensors file.
    """
    try:
        with safe_open(path, "pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            forms = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            return file.metadata() or {}, forms
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is no file of agentlib, or it is damaged: {one_line(error)}") from None


def read(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of ours says of itself, and its tensors; for files that anybody may have written.

    Memory is taken for what the file really holds; safetensors refuses a header that claims more.

    Raises:
        ValueError: the file is damaged, is of another kind or of a newer version, or holds NaN.
    """
    name = kind.removeprefix("agentlib ")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = tensors_of(file)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if name == "agent" and zipfile.is_zipfile(path):
            raise ValueError(f"{path} is a zip: a model of Stable-Baselines3 becomes an agent by Agent.from_sb3(path), "
                             "and is sb3:PATH on the command line") from None  # fmt: skip
        raise ValueError(f"{path} is no {name} file, or it is damaged: {one_line(error)}") from None
    try:
        description = json_from(metadata["agentlib"])
        found, number = description["file"], description["version"]
        if not isinstance(found, str) or type(number) is not int:
            raise TypeError("kind or version has the wrong type")
    except Refused as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    except (KeyError, TypeError, ValueError):
        if metadata.get("format") == "agentlib state":
            hint = "a saved state, such as a checkpoint: a run's agent.safetensors lies in the folder above"
            raise ValueError(f"{path} is no {name} file but {hint}") from None
        raise ValueError(f"{path} is no {name} file: it does not say that agentlib wrote it") from None
    if found != kind:
        hint = ": Agent.load(path).backbone is its network" if found == "agentlib agent" else ""
        raise ValueError(f"{path} is no {name} file but {shown(found)}{hint}")
    if number > version:
        raise ValueError(f"{path} has version {number}, this agentlib reads up to {version}: update agentlib")
    if description.pop("checksum", None) != checksum(json.dumps(description), tensors):
        raise ValueError(f"{path} is damaged: its checksum is another one")
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(f"{path} is damaged: {one_line(key)} holds NaN")
    return description, tensors


def tensors_of(file: Any) -> dict[str, Tensor]:
    """Copies of the tensors of an open safetensors file, which are views of it, and would change or vanish with it."""
    views = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    # Bit for bit, for the checksum: `clone` makes a 1 of a bool that is neither 0 nor 1.
    return {
        name: view.view(torch.uint8).clone().view(torch.bool) if view.dtype == torch.bool else view.clone()
        for name, view in views.items()
    }


class Refused(ValueError):
    """JSON that we never write: two readers could understand it differently."""


def json_from(text: str) -> Any:
    """The JSON in a file that anybody may have written.

    Raises:
        Refused: a key twice in one object, a number that is not finite, or nesting that is too deep.
        ValueError: no JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise Refused("lists are nested too deep") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused("a key is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise Refused(f"the number {shown(text)} is not finite")
    return number


def rebuilt(
    path: Path,
    spec: Any,
    tensors: dict[str, Tensor],
    classes: Classes | None = None,
    check: Callable[[nn.Module], None] | None = None,
) -> nn.Module:
    """The network of a spec with these weights, in eval mode.

    It is first built without memory, to see whether the weights fit: a spec may ask for networks of any size. `check`
    is given the network, and raises ValueError for what else does not fit.

    Raises:
        ValueError: the spec or the weights do not fit.
    """
    calls = 100 * len(tensors) + 1000
    with _Budget(calls), torch.device("meta"):
        sketch = _tried(path, lambda: from_spec(spec, classes))
        expected = {name: _form(tensor) for name, tensor in sketch.state_dict().items()}
    given = {name: _form(tensor) for name, tensor in tensors.items()}
    if expected != given:
        names = sorted(name for name in {*expected, *given} if expected.get(name) != given.get(name))
        raise ValueError(f"{path}: the weights do not fit the network: {one_line(', '.join(names[:5]))}")
    if _memory(path, sketch) > 2 * sum(map(_bytes, tensors.values())) + TABLES:
        raise ValueError(f"{path}: the network needs far more memory than the weights in the file explain")
    with host_generator_kept(), torch.device("cpu"):  # the first weights, which are overwritten, are nobody's to draw
        network = _tried(path, lambda: from_spec(spec, classes))
    for name, fresh in network.state_dict().items():
        numbers = tensors[name].float() if tensors[name].element_size() == 1 else tensors[name]
        if fresh.is_floating_point() and fresh.isfinite().all() and not numbers.isfinite().all():  # bounds may be open
            raise ValueError(f"{path} is damaged: {one_line(name)} holds infinities")
    dtypes = {tensors[name].dtype for name, _ in network.named_parameters()}
    if len(dtypes) == 1:
        network.to(dtypes.pop())
    network.load_state_dict(tensors)
    if check is not None:
        with torch.no_grad(), torch.device("cpu"), _Budget(calls):
            _tried(path, lambda: check(network.eval()))
    return network.eval()


def _memory(path: Path, sketch: nn.Module) -> int:
    """Bytes that a network keeps beside its weights: tables, and the memory of an episode."""
    with torch.device("meta"):
        parts = [part for part in sketch.modules() if getattr(part, "is_sequence", False)]
        states = _tried(path, lambda: [leaves(part.initial_state(1)) for part in parts])  # type: ignore[operator]
    memory = max((sum(map(_bytes, state)) for state in states), default=0)  # of the whole, and of what is inside
    return sum(map(_bytes, sketch.buffers())) + memory


def _tried(path: Path, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    except Exception as error:  # whatever the arguments in a file lead to
        raise ValueError(f"{path}: its network cannot be built: {type(error).__name__}: {one_line(error)}") from None


def _form(tensor: Tensor) -> tuple[torch.Size, bool]:
    return tensor.shape, tensor.is_floating_point()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Budget(TorchFunctionMode):
    """Refuses what takes more calls of torch than the weights in a file can explain."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise ValueError("the network that it describes has far more layers than weights in the file")
        return func(*args, **(kwargs or {}))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name in the same folder; at the end the file of that name takes the place of `path`.

    A process that reads `path` meanwhile, or after a crash, finds the whole old file or the whole new one. On an error
    the old file stays.

    Raises:
        OSError: the disk is full, or refuses; in the place of safetensors' own error, too.
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
    except SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(target)) from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
