"""How Sphinx makes the site of the documents, the docstrings and the examples: `make docs`."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import pydoc
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import agentlib  # noqa: E402

project, author, release = "agentlib", "agentlib contributors", agentlib.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.coverage"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/howto/*.md",
    "benchmarks/evidence/README.md",
    "docs/api/*.rst",
    "docs/decisions/*.md",
    "docs/guarantees/*.md",
    "*.md",
]
html_theme, html_title = "furo", f"agentlib {release}"
html_extra_path, html_static_path, html_css_files = ["extra"], ["static"], ["site.css"]
html_show_sphinx = False
myst_heading_anchors = 4
default_role, highlight_language = "code", "none"  # the blocks of docstrings are formulas
nitpicky = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "numpy.typing.ArrayLike"}
python_maximum_signature_line_length = 100
python_display_short_literal_types = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
suppress_warnings = ["ref.python"]  # a name that several modules have
nitpick_ignore = [  # what Sphinx makes of ranges in types, and of a class that is made by a function
    ("py:class", "inf"),
    ("py:class", "types.Annotated"),
    ("py:class", "types._Recorded"),
]
nitpick_ignore_regex = [
    (r"py:class", r"-?\d.*|dict\[str|tuple\[str")
]  # parts of a type that Sphinx splits at its commas

ROOMS = {
    "core": "the contracts",
    "backbones": "networks, initialization, optimizers",
    "data": "data sets, text, scenes, tasks",
    "experience": "replay, rollouts, demonstrations, evaluation",
    "envs": "environments and wrappers",
    "families": "how the runs of one kind of learner are put together",
    "policies": "what an agent does with features",
    "learners": "one file per algorithm",
    "metrics": "pure functions of arrays",
    "plots": "figures and pages",
    "runs": "train, sweep, resume",
    "sb3": "Stable-Baselines3 beside it",
}
"""The rooms whose public names the reference has."""
ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[([^\[\]]+)\]\]")
"""What Sphinx makes of `NDArray[...]`."""
ALIAS = re.compile(r"~?(?:sphinx\.util\.inspect\.)?TypeAliasForwardRef\('([\w.]+)'\)")
"""What Sphinx makes of a name of `autodoc_type_aliases` inside of brackets."""
SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Note):\s*$")


def modules_of(room: str) -> list[str]:
    """The modules of a room whose names do not begin with an underscore."""
    package = importlib.import_module(f"agentlib.{room}")
    found = [one.name for one in pkgutil.walk_packages(package.__path__, f"agentlib.{room}.") if not one.ispkg]
    return sorted(name for name in found if not name.rpartition(".")[2].startswith("_"))


def pages_of_the_reference() -> dict[str, list[str]]:
    """The modules that each page has."""
    return {"agentlib": ["agentlib", "agentlib.agent", "agentlib.testing", "agentlib.engine.loop"]} | {
        room: modules_of(room) for room in ROOMS
    }


def write_reference(app: Any) -> None:
    """A page for each room, with all of its modules; they are made again at each build."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    pages = pages_of_the_reference()
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


def with_short_types(app: Any, what: str, name: str, obj: Any, options: Any, sig: str, returns: str) -> Any:
    """Arrays as they are written in the code."""
    return tuple(text and shortened(text) for text in (sig, returns))


def shortened(text: str) -> str:
    """A signature without the parts of its types that nobody writes."""
    text = ALIAS.sub(r"\1", ARRAY.sub(r"~numpy.typing.NDArray[\1]", text))
    return re.sub(r"(?<![~\w.])(numpy\.typing\.ArrayLike)", r"~\1", text)


def resolved(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A reference to one of our names by the place that it is imported from, or by its kind as an alias of a type.

    Variables of types and private names have no place in the reference, and no link.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if is_elsewhere(target, node.get("py:module") or ""):
        return contnode
    domain, (place, found) = env.get_domain("py"), home(target)
    if isinstance(found, TypeVar) or (found is not None and place.rpartition(".")[2].startswith("_")):
        return contnode
    if "." not in target:  # an error under "Raises"
        place = next((name for name in sorted(domain.objects) if name.endswith(f".{target}")), target)
    if place not in domain.objects:
        rooms = [module for name, module in sys.modules.items() if name.startswith("agentlib.")]
        return contnode if "." not in target and any(hasattr(module, target) for module in rooms) else None
    from sphinx.util.nodes import make_refnode  # late: tests read this file without Sphinx

    entry = domain.objects[place]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, place)


def home(dotted: str) -> tuple[str, Any]:
    """The name by the module that defines it, and what it names; None for what is not there."""
    module, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):  # of a class, or without a module
        return dotted, None
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', name)}", found


def is_elsewhere(target: str, module: str) -> bool:
    """Whether Python or another library has the name, in full or as the module imports it; it gets no link."""
    first, *rest = target.split(".")
    full = ".".join([imports_of(module).get(first, first), *rest])
    return not full.startswith("agentlib.") and (pydoc.locate(full) is not None or home(full)[1] is not None)


@cache
def imports_of(module: str) -> dict[str, str]:
    """What the names that a module imports are in full, also those for type checkers alone."""
    file = getattr(sys.modules.get(module), "__file__", None)
    found = dict[str, str]()
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8") if file else "")):
        if isinstance(node, ast.Import | ast.ImportFrom):
            place = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            found |= {each.asname or each.name: f"{place}{each.name}" for each in node.names}
    return found


HOW_TO = ("embed", "environment", "network", "learner", "resume", "tune", "scale", "deploy")
CHAPTERS = {
    "Start": ["Overview <../README>", "gallery", "faq"],
    "How to": [f"howto/{name}" for name in HOW_TO],
    "Coming from": ["from_sb3", "from_cleanrl", "from_imitation", "from_lightning"],
    "Learners": [
        *("q_learning", "control", "memory", "imitation", "supervised", "vision", "language", "generative"),
        *("self_supervised", "meta", "robustness", "shift"),
    ],
    "The library": [
        "architecture",
        "embedding",
        "backbones",
        "scaling",
        "guarantees",
        "../SECURITY",
        "../CONTRIBUTING",
        "../CODE_OF_CONDUCT",
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


def write_notebooks(app: Any) -> None:
    """A notebook for each example, to which the gallery's page links."""
    runpy.run_path(str(Path(__file__).with_name("notebooks.py")))["write"](ROOT / "docs" / "notebooks")


def with_notebooks(app: Any, name: str, source: list[str]) -> None:
    """In the gallery each example is there as a program and as a notebook."""
    if name == "docs/gallery":
        source[0] = re.sub(r"(\]\(\.\./examples/(\w+)\.py\))", r"\1 ([notebook](notebooks/\2.ipynb))", source[0])


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("builder-inited", write_notebooks)
    app.connect("source-read", with_notebooks)
    app.connect("builder-inited", write_reference)
    app.connect("source-read", with_contents)
    app.connect("autodoc-process-signature", with_short_types)
    app.connect("missing-reference", resolved)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
