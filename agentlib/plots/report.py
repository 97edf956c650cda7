"""Results for people: plain-text tables, a JSON file, and one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from agentlib.backbones.files import replacing


@dataclass(frozen=True)
class Table:
    """Rows of short texts; the first column names the row, the others are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """A sentence below the table."""

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        cells = [
            [text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(pairs)]
            for pairs in (zip(line, widths, strict=True) for line in lines)
        ]
        body = ["  ".join(line).rstrip() for line in cells]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([*([self.title] if self.title else []), body[0], rule, *body[1:]])

    def html(self) -> str:
        """The table as an HTML section."""
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in self.columns)
        rows = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(text)}</td>" for text in row[1:])}</tr>\n'
            for row in self.rows
        )
        table = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>'
        return _section(self.title, table, self.note)


@dataclass(frozen=True)
class Picture:
    """A picture, or a video."""

    title: str
    png: bytes
    description: str
    """For readers who do not see it."""
    note: str = ""
    kind: str = "png"
    """Or "gif", or "mp4"."""

    def html(self) -> str:
        """The picture as an HTML section, its bytes inside."""
        data = base64.b64encode(self.png).decode("ascii")
        if self.kind == "mp4":
            video = f'<video controls muted loop src="data:video/mp4;base64,{data}"></video>'
            return _section(self.title, video, self.note)
        return _section(
            self.title, f'<img alt="{escape(self.description)}" src="data:image/{self.kind};base64,{data}">', self.note
        )


@dataclass(frozen=True)
class Prose:
    """Paragraphs of plain text."""

    title: str
    paragraphs: tuple[str, ...]

    def html(self) -> str:
        """The text as an HTML section."""
        return _section(self.title, "\n".join(f"<p>{escape(text)}</p>" for text in self.paragraphs))


@dataclass(frozen=True)
class Code:
    """Lines of a program or of the shell."""

    title: str
    lines: str

    def html(self) -> str:
        """The lines as an HTML section."""
        return _section(self.title, f'<pre class="wide">{escape(self.lines)}</pre>')


@dataclass(frozen=True)
class Highlight:
    """One number that the page opens with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """A page: what was found in a sentence, the main numbers, then sections."""

    title: str
    summary: str
    highlights: tuple[Highlight, ...]
    sections: tuple[Table | Picture | Prose | Code, ...]

    def html(self) -> str:
        """A whole HTML document: no scripts, no links, nothing fetched."""
        cards = "\n".join(
            f'<div class="card"><p class="label">{escape(item.label)}</p><p class="value">{escape(item.value)}</p>'
            f"<p>{escape(item.note)}</p></div>"
            for item in self.highlights
        )
        sections = "\n".join(section.html() for section in self.sections)
        return (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(self.title)}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(self.title)}</h1>\n"
            f'<p class="summary">{escape(self.summary)}</p>\n<div class="cards">\n{cards}\n</div>\n{sections}\n'
            "</main>\n</body>\n</html>\n"
        )


def provenance() -> dict[str, Any]:
    """When, with which command, versions and machine a result is made: all that belongs into `results.json`."""
    packages = ("agentlib-rl", "torch", "numpy", "gymnasium", "stable-baselines3")
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
    }


def made_with(origin: dict[str, Any] | None = None) -> Table:
    """When, with which command, versions and machine, as a table; of `provenance` by default."""
    origin = provenance() if origin is None else origin
    cores = origin["machine"]["cores"]
    rows = (
        ("Made", str(origin["made"])),
        ("Command", str(origin["command"])),
        ("Processor", f"{origin['machine']['processor']}, {cores} core{'s' * (cores != 1)}"),
        *((name, version or "not installed as a package") for name, version in origin["versions"].items()),
    )
    return Table("Made with", ("", ""), rows)


def write_json(path: str | Path, data: Any) -> None:
    """Write strict JSON: dataclasses, arrays and paths become plain values, numbers that are not finite become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _section(title: str, body: str, note: str = "") -> str:
    below = f'\n<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}{below}\n</section>"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model; Linux keeps it in a file, elsewhere the platform module knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6472; --line: #e3e6eb; --accent: #0072B2; --page: #fff;
  --back: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #a2abb9; --line: #343a46; --accent: #56B4E9;
  --page: #1b1f27; --back: #12151a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.6 system-ui, "Segoe UI", "Helvetica Neue",
  "DejaVu Sans", sans-serif; }
main { max-width: 58rem; margin: 2.5rem auto; padding: 2.5rem 3rem; background: var(--page);
  border: 1px solid var(--line); border-radius: 10px; }
h1 { font-size: 1.7rem; text-wrap: balance; line-height: 1.25; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .5rem 0; }
h1, h2, p { overflow-wrap: anywhere; }
.summary { font-size: 1.08rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.card { padding: .9rem 1.1rem; border: 1px solid var(--line); border-top: 3px solid var(--accent); border-radius: 6px; }
.card p { margin: 0; color: var(--soft); font-size: .88rem; }
.card .value { margin: .15rem 0; color: var(--ink); font-size: 1.6rem; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { padding-left: 0; text-align: left; }
td:last-child, th:last-child { padding-right: 0; }
th:first-child + td:last-child { white-space: normal; overflow-wrap: anywhere; }
tbody th { font-weight: 400; }
thead th { vertical-align: bottom; white-space: normal; border-bottom: 2px solid var(--ink); color: var(--soft);
  font-size: .85rem; font-weight: 600; }
img, video { display: block; max-width: 100%; width: 100%; height: auto; background: #fff; border-radius: 6px; }
pre { margin: 0; padding: .9rem 1.1rem; border: 1px solid var(--line); border-radius: 6px; font-size: .88rem;
  line-height: 1.5; }
.note { color: var(--soft); font-size: .88rem; }
@media (max-width: 40rem) { main { margin: 0; padding: 1.25rem; border: 0; border-radius: 0; }
  th:first-child + td:last-child { min-width: 9rem; } }
@media print { body { background: #fff; font-size: 11pt; } main { margin: 0; padding: 0; border: 0; max-width: none; }
  .wide { overflow: visible; } table { font-size: 8.5pt; }
  section, .card, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""
