"""`agentlib inspect`: a description of a file of ours, without building a network or reading its weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.core.names import printable
from agentlib.shell.flags import Options, count

Rows = list[tuple[str, str]]
PART_OF = {"n_atoms": "distributional", "v_min": "distributional", "v_max": "distributional", "noise": "noisy"}
"""Arguments of networks that do nothing where another one is off."""


@dataclass(frozen=True, kw_only=True)
class Inspect(Options):
    """Describe a file of agentlib without loading it: an agent, a model, a backbone or a checkpoint."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
    """The file, or the folder of a run."""
    tensors: tyro.conf.FlagCreatePairsOff[bool] = False
    """List the tensors of each file of a folder, too."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Inspect, prog="agentlib inspect", args=arguments)
    print(inspected(options.file, options.tensors or not options.file.is_dir()))
    return 0


def inspected(path: Path, tensors: bool = True) -> str:
    """A description of an agent, model, backbone or checkpoint file, or of a run's folder, with or without tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or none of ours.
    """
    if path.is_dir():
        return _folder(path, tensors)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    from agentlib.backbones.files import header  # late: it brings torch

    metadata, forms = header(path)
    numbers = sum(math.prod(shape) for _, shape in forms.values())
    rows: Rows = [("size", f"{path.stat().st_size:,} bytes: {len(forms)} tensors, {numbers:,} numbers")]
    if "agentlib" in metadata:
        try:
            kind, more = _described(path, metadata["agentlib"])
        except RecursionError:
            raise ValueError(f"{path} is damaged: its metadata are nested too deep") from None
    elif metadata.get("format") == "agentlib state":
        kind, more = "agentlib state", [("version", metadata.get("version", "unknown"))]
    else:
        raise ValueError(f"{path} is a safetensors file, but agentlib did not write it")
    rows += more
    width = max(len(name) for name, _ in rows)
    lines = [f"{path}: {kind}", *(f"  {name:<{width}}  {text}" for name, text in rows)]
    if tensors:
        lines += ["  tensors", *(f"    {name}  {dtype} {shape}" for name, (dtype, shape) in forms.items())]
    return "\n".join(map(printable, lines))


def _folder(path: Path, tensors: bool) -> str:
    """The files of a folder: what it holds itself, and below that a line for each folder."""
    files = sorted(path.glob("*.safetensors"))
    below = {folder: sorted(folder.rglob("*.safetensors")) for folder in sorted(path.iterdir()) if folder.is_dir()}
    if not files and not any(below.values()):
        raise FileNotFoundError(f"no file of agentlib in {path}")
    if tensors:
        files, below = files + [file for inside in below.values() for file in inside], {}
    parts = [inspected(file, tensors) for file in files]
    for folder, inside in below.items():
        if inside:
            size = sum(file.stat().st_size for file in inside)
            parts.append(f"{folder}: {count(len(inside), 'file')}, {size:,} bytes, the last one {inside[-1].name}")
    return "\n\n".join(parts) + ("" if tensors else "\n\n(--tensors lists all tensors)")


def _described(path: Path, text: str) -> tuple[str, Rows]:
    from agentlib.backbones.files import json_from

    try:
        description = dict(json_from(text))
    except (TypeError, ValueError):
        raise ValueError(f"{path} is damaged: its metadata cannot be read") from None
    kind = str(description.pop("file", "of an unknown kind"))
    about = description.pop("about", {})
    rows: Rows = [(name, _as_text(name, value)) for name, value in description.items()]
    if isinstance(about, dict):
        rows += [(name, _as_text(name, value)) for name, value in about.items()]
    return kind, rows


def _as_text(name: str, value: Any) -> str:
    if name in ("policy", "model", "backbone") and isinstance(value, dict):
        return _network(value)
    if isinstance(value, dict) and "type" in value:
        inner = ", ".join(f"{key}={_brief(item)}" for key, item in value.items() if key != "type")
        return f"{value['type']}({inner})"
    return _brief(value)


def _network(spec: Any) -> str:
    """A spec as a call: q(backbone=mlp(input_dim=4, hidden=[64, 64]), n_actions=2)."""
    if isinstance(spec, dict) and set(spec) == {"name", "arguments"} and isinstance(spec["arguments"], dict):
        used = {key: item for key, item in spec["arguments"].items() if _is_used(key, item, spec["arguments"])}
        return f"{spec['name']}({', '.join(f'{key}={_network(item)}' for key, item in used.items())})"
    if isinstance(spec, dict):
        return "{" + ", ".join(f"{key}: {_network(item)}" for key, item in spec.items()) + "}"
    if isinstance(spec, list) and any(isinstance(item, dict) for item in spec):
        return f"[{', '.join(map(_network, spec))}]"
    return _brief(spec)


def _is_used(name: str, value: Any, arguments: dict[str, Any]) -> bool:
    """Whether an argument of a network does anything: it is on, and so is the option that it belongs to."""
    if value is None or value is False or value in ("none", [], {}) or (name == "dropout" and value == 0.0):
        return False
    return name not in PART_OF or PART_OF[name] not in arguments or bool(arguments[PART_OF[name]])


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " ..."
