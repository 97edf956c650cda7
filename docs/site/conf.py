"""How Sphinx makes the site of the documents, the docstrings and the examples: `make docs`."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import agentlib  # noqa: E402

project, author, release = "agentlib", "agentlib contributors", agentlib.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.coverage"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "benchmarks/evidence/README.md",
    "docs/api/*.rst",
    "docs/decisions/*.md",
    "docs/guarantees/*.md",
    "*.md",
]
html_theme, html_title = "furo", f"agentlib {release}"
html_extra_path = ["extra"]
html_show_sphinx = False
myst_heading_anchors = 4
default_role = "code"
nitpicky = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
suppress_warnings = ["ref.python"]  # a name that several modules have
nitpick_ignore_regex = [(r"py:.*", r".*")]

ROOMS = {
    "core": "the contracts",
    "backbones": "networks, initialization, optimizers",
    "data": "data sets, text, scenes, tasks",
    "experience": "replay, rollouts, demonstrations, evaluation",
    "envs": "environments and wrappers",
    "policies": "what an agent does with features",
    "learners": "one file per algorithm",
    "metrics": "pure functions of arrays",
    "plots": "figures and pages",
    "runs": "train, sweep, resume",
    "sb3": "Stable-Baselines3 beside it",
}
"""The rooms whose public names the reference has."""
SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Note):\s*$")


def modules_of(room: str) -> list[str]:
    """The modules of a room whose names do not begin with an underscore."""
    package = importlib.import_module(f"agentlib.{room}")
    found = [one.name for one in pkgutil.walk_packages(package.__path__, f"agentlib.{room}.") if not one.ispkg]
    return sorted(name for name in found if not name.rpartition(".")[2].startswith("_"))


def write_reference(app: Any) -> None:
    """A page for each room, with all of its modules; they are made again at each build."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    pages = {"agentlib": ["agentlib", "agentlib.agent", "agentlib.testing"]} | {
        room: modules_of(room) for room in ROOMS
    }
    for room, modules in pages.items():
        title = "agentlib" if room == "agentlib" else f"agentlib.{room}: {ROOMS[room]}"
        lines = [title, "=" * len(title), ""]
        for module in modules:
            lines += [
                module,
                "-" * len(module),
                "",
                f".. automodule:: {module}",
                "   :members:",
                "   :show-inheritance:",
                "",
            ]
        (folder / f"{room}.rst").write_text("\n".join(lines), encoding="utf-8")
    title = "Reference"
    toctree = [
        title,
        "=" * len(title),
        "",
        ".. toctree::",
        "   :maxdepth: 2",
        "",
        *(f"   {room}" for room in pages),
        "",
    ]
    (folder / "index.rst").write_text("\n".join(toctree), encoding="utf-8")


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text with formulas: these become literal blocks, and signs lose their meaning."""
    found, in_section, in_block = list[str](), False, False
    for line in lines:
        is_indented = line.startswith("    ")
        if line and not is_indented:
            in_section, in_block = bool(SECTION.match(line)), False
        if is_indented and not in_section and not in_block:
            found += ["::", ""] if not found or not found[-1] else ["", "::", ""]
            in_block = True
        found.append(line if in_block else escaped(line))
    # Napoleon takes the words before a colon in an attribute's first line for its type: it gets an empty comment.
    lines[:] = ["..", "", *found] if what in {"attribute", "data", "property"} else found


def escaped(line: str) -> str:
    """Signs outside of backticks as they are."""
    parts = line.split("`")
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # as in `Dataset`s
    parts[::2] = [re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", re.sub(r"([*|\\])", r"\\\1", part)) for part in parts[::2]]
    return "`".join(parts)


CHAPTERS = {
    "Start": ["../README", "embedding", "from_sb3"],
    "Learners": [
        *("q_learning", "control", "memory", "imitation", "supervised", "vision", "language", "generative"),
        *("self_supervised", "meta", "robustness", "shift"),
    ],
    "The library": [
        "architecture",
        "backbones",
        "scaling",
        "guarantees",
        "../SECURITY",
        "../CONTRIBUTING",
        "../CHANGELOG",
    ],
    "Evidence": ["results", "benchmarks", "performance", "../benchmarks/evidence/README"],
    "Decisions": ["decisions/README", "decisions/*"],
    "Reference": ["api/index"],
}


def with_contents(app: Any, name: str, source: list[str]) -> None:
    """The first page has the contents of the site, which readers of the repository need not see."""
    if name == root_doc:
        for chapter, pages in CHAPTERS.items():
            lines = ["", "```{toctree}", ":hidden:", ":glob:", f":caption: {chapter}", "", *pages, "```", ""]
            source[0] += "\n".join(lines)


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", with_contents)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
