"""Notebooks of the examples, by the same lines: `make docs` writes them for the gallery's links.

python docs/site/notebooks.py FOLDER      # all of them, without the site
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
GUARD = 'if __name__ == "__main__":'


def notebook(example: Path) -> dict[str, Any]:
    """A notebook (format 4.5): the example's text, a cell for its imports, one for each definition, and its run."""
    source = example.read_text(encoding="utf-8").partition(GUARD)[0]
    tree, lines = ast.parse(source), source.splitlines()
    first = tree.body[0].end_lineno or 0  # the docstring's last line
    ends = [
        node.end_lineno or 0
        for node, following in zip(tree.body, [*tree.body[1:], None], strict=True)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) or isinstance(following, ast.FunctionDef | ast.ClassDef)
    ]
    starts = [first, *ends]
    parts = ["\n".join(lines[start:end]).strip("\n") for start, end in zip(starts, [*ends, len(lines)], strict=True)]
    run = [
        "import sys",
        "",
        f'sys.argv = ["{example.name}"]  # and its options, such as "--help"',
        "main()",
    ]
    cells = [_cell(0, "markdown", _text(example.stem, ast.get_docstring(tree) or ""))]
    code = [part for part in parts if part] + ["\n".join(run)]
    cells += [_cell(number, "code", part) for number, part in enumerate(code, 1)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _text(name: str, docstring: str) -> str:
    """The docstring, with its lines for the shell and its formulas as blocks."""
    paragraphs = docstring.split("\n\n")
    shown = [f"```text\n{each}\n```" if each.startswith(("python ", "    ")) else each for each in paragraphs]
    return "\n\n".join([f"# {name}", *shown])


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def write(folder: Path) -> list[Path]:
    """A notebook for each example; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for example in sorted(EXAMPLES.glob("*.py")):
        written.append(folder / f"{example.stem}.ipynb")
        written[-1].write_text(json.dumps(notebook(example), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]))
