"""Model files of Stable-Baselines3, read without unpickling anything.

A file is a zip. Its entry `data` is JSON in which some values are pickles in base64, with their attributes as plain
text beside them: the pickles are never looked at, spaces are read from the text. `policy.pth` holds the weights, which
torch reads with `weights_only=True`. Nothing is unpacked to disk, and sizes are looked at before anything is read.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.core.names import LONGEST, one_line, shown
from agentlib.core.spaces import space_from_json

VERSION_ENTRY = "_stable_baselines3_version"
SMALL = 1 << 10
LARGEST = {"data": 1 << 28, "policy.pth": 1 << 32, VERSION_ENTRY: SMALL}
"""Bytes of an entry, unpacked; more is refused before it is read."""
MOST_TIMES = 20
"""How many times as large as it is packed a larger entry may be; Stable-Baselines3 does not pack at all."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_VALUES = 1 << 20
"""In `data`."""
LONGEST_TEXT = 1 << 19
"""Characters of a space as text."""
MOST_NUMBERS = 1 << 22
"""In one observation or action."""
_NUMBER = r"[-+]?(?:inf|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)"


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics of `VecNormalize` for one observation."""

    mean: Any
    variance: Any
    count: float = 0.0
    clip: float = 10.0


@dataclass(frozen=True, kw_only=True)
class SB3Model:
    """All of a model of Stable-Baselines3 that acting needs."""

    weights: Mapping[str, Tensor]
    """The policy's `state_dict`."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Classes among them may be given by name."""
    exploration_rate: float = 0.0
    """Share of random actions; DQN's."""
    statistics: Mapping[str | None, Statistics] = field(default_factory=dict)
    """By the key of a Dict observation, None for other observations."""
    version: str = "unknown"
    """Of Stable-Baselines3."""


def read_sb3_file(
    path: str | Path,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
) -> SB3Model:
    """The model in a zip, whose suffix may be left out; with these spaces, if given, in place of the file's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such model, a damaged or oversized file, or a space that its text does not give whole.
    """
    path = Path(path)
    found = path if path.is_file() else Path(f"{path}.zip")
    if not found.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        with zipfile.ZipFile(found) as archive:
            data = _json(_entry(archive, "data"))
            weights = _weights(_entry(archive, "policy.pth"))
            known = VERSION_ENTRY in archive.namelist()
            version = _entry(archive, VERSION_ENTRY)[:20].decode() if known else "unknown"
        if not isinstance(data, dict):
            raise ValueError("its data is no JSON object")
    except ValueError as error:  # of JSON and of Unicode too
        raise ValueError(f"{found} is no model file of Stable-Baselines3: {one_line(error)}") from None
    except Exception as error:  # of damaged zips, and of nested JSON
        raise ValueError(
            f"{found} is no model file of Stable-Baselines3, or it is damaged: {one_line(error)}"
        ) from None
    kwargs = data.get("policy_kwargs")
    rate = data.get("exploration_rate")
    return SB3Model(
        weights=weights,
        observation_space=_space(found, data, "observation_space") if observation_space is None else observation_space,
        action_space=_space(found, data, "action_space") if action_space is None else action_space,
        policy_kwargs=kwargs if isinstance(kwargs, dict) else {},
        exploration_rate=float(rate) if isinstance(rate, int | float) and 0 <= rate <= 1 else 0.0,
        version=version,
    )


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"it has no entry {name!r}") from None
    if info.file_size > LARGEST[name]:
        raise ValueError(f"its entry {name!r} would unpack to {info.file_size:,} bytes, over {LARGEST[name]:,}")
    packed = min(info.compress_size, Path(str(archive.filename)).stat().st_size)
    if info.file_size > MOST_TIMES * packed + SMALL:
        raise ValueError(f"its entry {name!r} would unpack to {info.file_size:,} bytes, from {packed:,}")
    return archive.read(info)  # at most as much as was declared


def _json(content: bytes) -> Any:
    if sum(map(content.count, (b"[", b"{", b","))) > MOST_VALUES:
        raise ValueError(f"its data hold more than {MOST_VALUES:,} values")
    return json.loads(content.decode())  # of bytes it would guess the encoding


def _weights(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file of torch, on the CPU."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # torch writes its entries uncompressed; compressed ones could unpack to anything.
        if sum(info.file_size for info in archive.infolist()) > len(content):
            raise ValueError("its weights are compressed, which torch never does")
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251 - the one place
    except Exception as error:  # torch's own kinds of errors, and those of what a damaged file makes it do
        reason = one_line(str(error).strip().partition("\n")[0])
        raise ValueError(f"its weights cannot be read safely: {reason}") from None
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise ValueError("its weights are no dictionary of tensors")
    total = 0
    for name, tensor in loaded.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.dtype in FLOATS
        # A tensor can claim to be larger than what is stored for it, and several of them the same memory.
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"its weights {shown(name)} are no plain tensor of numbers")
        total += tensor.numel() * tensor.element_size()
        if total > MOST_TIMES * len(content) or not tensor.isfinite().all():
            raise ValueError(f"its weights {shown(name)} hold NaN or infinities, or more than the file does")
    return loaded


# Spaces as text ------------------------------------------------------------------------------------------------------


def _space(path: Path, data: Mapping[str, Any], name: str) -> spaces.Space[Any]:
    try:
        return space_from_json(_described(data[name]))
    except Exception as error:  # whatever a text leads to that Gymnasium did not write
        raise ValueError(
            f"{path} does not give its {name.replace('_', ' ')} in a form that can be read without unpickling: pass "
            f"{name}=..., such as env.{name} ({one_line(error)})"
        ) from None


def _described(fields: Mapping[str, Any]) -> Any:
    """A space as `space_from_json` takes it, from the plain fields beside the pickle."""
    kind = re.findall(r"\w+", fields[":type:"][-LONGEST:])[-1]  # <class 'gymnasium.spaces.box.Box'>
    if kind == "Dict":
        return {"type": "Dict", "spaces": dict(_read(fields["spaces"]))}
    if kind == "Box":
        shape = fields.get("_shape", fields.get("shape"))
        return _called(kind, [_read(fields["low"]), _read(fields["high"]), shape, fields["dtype"]], {})
    if kind == "MultiDiscrete":
        return _called(kind, [_read(fields["nvec"])], {"start": _read(fields["start"])} if "start" in fields else {})
    return _called(kind, [fields.get("n")], {"start": int(fields.get("start", 0))})


def _read(text: str) -> Any:
    """The value of a text such as `{'a': Box(-1.0, [1. 2.], (2,), float32), 'b': Discrete(3)}` or `[1. 2. ... 9.]`."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"a text of {len(text):,} characters")
    # Arrays as numpy prints them get commas; what is in quotes (a key) stays. What has no end is taken whole, too: to
    # look for it once more from each place within would take the square of the time.
    pattern = r"""('(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?)|(\[[^,(){}'"]*)"""
    prepared = re.sub(pattern, lambda found: found[1] or _listed(found[2]), text, flags=re.DOTALL)
    return _value_of(ast.parse(prepared.strip(), mode="eval").body)


def _listed(text: str) -> str:
    array, end, rest = text.rpartition("]")
    numbers = ", ".join(re.findall(_NUMBER, array))
    return (f"[{numbers}, ...]" if "..." in array else f"[{numbers}]") + rest if end else text


def _value_of(node: ast.expr) -> Any:
    """Literals, `inf`, names of dtypes, and calls of the spaces' names; nothing is evaluated."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_value_of(argument) for argument in node.args]
        keywords = {str(keyword.arg): _value_of(keyword.value) for keyword in node.keywords}
        return _called(node.func.id, arguments, keywords)
    if isinstance(node, ast.Dict):
        return {_value_of(key): _value_of(part) for key, part in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value_of(part) for part in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "-inf" if isinstance(node.operand, ast.Name) else -_value_of(node.operand)
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _called(name: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    if name == "OrderedDict":
        return dict(arguments[0])
    if name == "Box":
        low, high, shape, dtype = arguments
        bounds = {"low": _bound(low, shape), "high": _bound(high, shape)}
        return {"type": "Box", "shape": shape, "dtype": dtype, **bounds}
    if name == "Discrete":
        return {"type": "Discrete", "n": int(arguments[0]), "start": keywords.get("start", 0)}
    if name == "MultiDiscrete":
        nvec = [int(number) for number in arguments[0]]
        start = [int(number) for number in keywords.get("start", [0] * len(nvec))]
        return {"type": "MultiDiscrete", "nvec": nvec, "start": start}
    if name == "MultiBinary":
        return {"type": "MultiBinary", "n": arguments[0]}
    raise ValueError(f"Stable-Baselines3 has no policies for {name}")


def _bound(value: Any, shape: Any) -> Any:
    """The numbers of an array. One for all, where numpy left some out and those that it printed are equal."""
    count: int = math.prod(shape)
    if not 0 < count <= MOST_NUMBERS:
        raise ValueError(f"a space of {count:,} numbers")
    if not isinstance(value, list):
        return value
    if value[-1] is ... and len(set(value)) == 2:
        return value[0]
    if value[-1] is ... or len(value) != count:
        raise ValueError(f"{len(value)} of {count} numbers are written out")
    return value
