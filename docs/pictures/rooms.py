"""Draws the rooms of docs/architecture.md: one box per room, on its floor, and the imports between them, as the code
has them. A line leaves a room to the right and goes down to each room that it imports from. The
floors are those of tests/test_architecture.py.

    python docs/pictures/rooms.py
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
GREY, BLUE, DARK = "#8a8f98", "#4c78a8", "#5b616b"
LEFT, TOP, STEP, ROW, WIDTH, HEIGHT = 34, 6, 64, 34, 92, 24
"""Margins, the distance between columns and between rows, and the sides of a box."""


def floors() -> list[tuple[str, ...]]:
    """The rooms of each floor, from the bottom."""
    test = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    for node in test.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            found: list[tuple[str, ...]] = ast.literal_eval(node.value)
            return found
    raise LookupError("tests/test_architecture.py has no list FLOORS")


def modules() -> dict[str, Path]:
    """Every file of the package, by the name of its module."""
    found = {}
    for path in sorted((ROOT / "agentlib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> Counter[tuple[str, str]]:
    """How many modules of a room the files of another one import, by the pair of rooms."""
    known, counts = modules(), Counter[tuple[str, str]]()
    for name, path in known.items():
        imported = set[str]()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                imported |= inside or {node.module}
        here = room(name)
        counts.update((here, there) for there in map(room, imported & known.keys()) if here and there != here)
    return counts


def room(module: str) -> str:
    """The room of a module; an empty string for the package itself."""
    return module.split(".")[1] if "." in module else ""


def picture() -> str:
    """The SVG: rooms from the top floor at the left down to the bottom floor at the right."""
    levels = floors()[::-1]
    order = [name for level in levels for name in level]
    place = {name: (LEFT + STEP * i, TOP + ROW * i) for i, name in enumerate(order)}
    counts = {pair: n for pair, n in sorted(imports().items()) if pair[0] in place and pair[1] in place}
    width, height = LEFT + STEP * (len(order) - 1) + WIDTH + 6, 2 * TOP + ROW * len(order)
    parts = [*_bands(levels, width), *_lines(order, place, counts), *_boxes(place), *_dots(place, counts)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    font = 'font-family="sans-serif" font-size="12" text-anchor="middle"'
    return f"{head} {font}>\n<title>Rooms of agentlib, and the imports between them</title>\n" + "\n".join(
        [*parts, "</svg>\n"]
    )


def _bands(levels: list[tuple[str, ...]], width: int) -> list[str]:
    """Every second floor shaded, and the number of each."""
    parts, row = [], 0
    for i, level in enumerate(levels):
        y, high = TOP + ROW * row, ROW * len(level)
        if i % 2 == 0:
            parts.append(f'<rect y="{y}" width="{width}" height="{high}" fill="{GREY}" fill-opacity="0.12"/>')
        parts.append(f'<text x="16" y="{y + high // 2 + 4}" fill="{GREY}">{len(levels) - i}</text>')
        row += len(level)
    return parts


def _lines(order: list[str], place: dict[str, tuple[int, int]], counts: dict[tuple[str, str], int]) -> list[str]:
    """From each room to the right, and down to each room that is imported from, with an arrowhead."""
    parts = []
    for name in order:
        x, y = place[name]
        below = [place[b][0] for a, b in counts if a == name]
        above = [place[a][1] for a, b in counts if b == name]
        if below:
            parts.append(_line(x + WIDTH, y + ROW // 2, max(below) + WIDTH // 2, y + ROW // 2))
        if above:
            middle, end = x + WIDTH // 2, y + (ROW - HEIGHT) // 2
            parts.append(_line(middle, min(above) + ROW // 2, middle, end))
            parts.append(f'<path d="M{middle - 4} {end - 7}h8l-4 7z" fill="{GREY}"/>')
    return parts


def _line(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{GREY}" stroke-opacity="0.7" fill="none"/>'


def _boxes(place: dict[str, tuple[int, int]]) -> list[str]:
    parts = []
    for name, (x, y) in place.items():
        top = y + (ROW - HEIGHT) // 2
        parts.append(f'<rect x="{x}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="3" fill="{BLUE}"/>')
        parts.append(f'<text x="{x + WIDTH // 2}" y="{top + 16}" fill="#ffffff">{name}</text>')
    return parts


def _dots(place: dict[str, tuple[int, int]], counts: dict[tuple[str, str], int]) -> list[str]:
    """At each bend, where one room imports from another."""
    bends = [(place[below][0] + WIDTH // 2, place[above][1] + ROW // 2) for above, below in counts]
    return [f'<circle cx="{x}" cy="{y}" r="4" fill="{DARK}"/>' for x, y in bends]


if __name__ == "__main__":
    (FOLDER / "rooms.svg").write_text(picture(), encoding="utf-8")
