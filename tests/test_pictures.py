"""The page on backbones has every backbone, and its pictures are those that their script draws."""

import ast
import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest

from agentlib.backbones import BACKBONES

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PAGES = ("generative", "self_supervised")
OTHERS = {"q_learning_options.svg", "growth.svg", "rooms.svg"}
"""Drawn from the files of results by `make results`, and from the imports of the package by rooms.py."""


def script(name, folder=PICTURES):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pictures_are_drawn_from_the_networks():
    pictures = script("draw").pictures()
    assert sorted(pictures) == sorted(path.name for path in PICTURES.glob("*.svg") if path.name not in OTHERS)
    for name, content in pictures.items():
        assert (PICTURES / name).read_text(encoding="utf-8") == content, f"{name}: run python docs/pictures/draw.py"


def test_the_gallery_is_made_of_the_examples():
    """Each has a small picture of a kind that the script makes; the page says the first lines of today."""
    gallery = script("gallery")
    now = (PICTURES.parent / "gallery.md").read_text(encoding="utf-8")
    assert now == gallery.page(), "an example has changed: run python docs/pictures/gallery.py"
    shown = {example: picture for group in gallery.GROUPS.values() for example, picture in group.items()}
    assert sorted(shown) == sorted(path.stem for path in (PICTURES.parents[1] / "examples").glob("*.py"))
    made = {example if picture == "code" else picture for example, picture in shown.items()} | set(gallery.GRID)
    assert made == set(gallery.pictures())
    sizes = {path.stem: path.stat().st_size for path in (PICTURES / "gallery").glob("*.png")}
    assert set(sizes) == made | {"grid"}
    assert sizes.pop("grid") < 200_000
    assert max(sizes.values()) < gallery.MOST_BYTES


def test_the_film_shows_agents_at_work():
    """Small enough for the first page, of the size that its script makes, and with no two pictures alike."""
    image, sequence = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageSequence")
    film = script("film")
    assert film.FILM.stat().st_size < film.MOST_BYTES
    with image.open(film.FILM) as opened:
        frames = [hash(frame.convert("RGB").tobytes()) for frame in sequence.Iterator(opened)]
        assert opened.size == (3 * film.SIZE[0] + 8, 2 * film.SIZE[1] + 4)
    assert len(frames) == film.STEPS // film.EVERY
    assert len(set(frames)) > 0.9 * len(frames)


def test_notebooks_have_the_lines_of_the_examples(tmp_path, monkeypatch, capsys):
    """All of them, in order, and a run that takes its options from the shell's place."""
    notebooks = script("notebooks", PICTURES.parent / "site")
    for path in notebooks.write(tmp_path):
        made = json.loads(path.read_text(encoding="utf-8"))
        code = [cell["source"] for cell in made["cells"] if cell["cell_type"] == "code"]
        source = (PICTURES.parents[1] / "examples" / f"{path.stem}.py").read_text(encoding="utf-8")
        tree = ast.parse(source.partition(notebooks.GUARD)[0])
        assert ast.dump(ast.parse("\n\n".join(code[:-1]))) == ast.dump(ast.Module(tree.body[1:], []))
        assert code[-1].endswith("\nmain()")
        assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"]) > 2
    [*cells, last] = [
        cell["source"]
        for cell in json.loads((tmp_path / "backprop_by_hand.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    monkeypatch.setattr("sys.argv", [""])
    program = "\n\n".join(['"""A notebook."""', *cells, last.replace('.py"]', '.py", "--steps", "3"]')])
    (tmp_path / "cells.py").write_text(program, encoding="utf-8")
    runpy.run_path(str(tmp_path / "cells.py"))
    assert "by hand and by autograd differ by at most" in capsys.readouterr().out


def test_pictures_of_code_begin_where_the_example_has_it():
    gallery = script("gallery")
    for example, first in gallery.CODE.items():
        text = (PICTURES.parents[1] / "examples" / f"{example}.py").read_text(encoding="utf-8")
        assert f"\n{first}" in text, example


def test_the_page_has_every_backbone():
    rows = [
        line for line in (PICTURES.parent / "backbones.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    named = {name for row in rows for name in BACKBONES if f"`{name}`" in row.split("|")[1]}
    assert named == set(BACKBONES)


def test_the_pages_show_what_learners_make():
    """Each picture of learned models is small, one that the script makes, and on one of the two pages."""
    learned = script("learned")
    shown = "".join((PICTURES.parent / f"{page}.md").read_text(encoding="utf-8") for page in PAGES)
    sizes = {path.stem: path.stat().st_size for path in (PICTURES / "learned").glob("*.png")}
    assert set(sizes) == set(learned.DRAWN)
    assert max(sizes.values()) < learned.MOST_BYTES
    assert set(re.findall(r"pictures/learned/(\w+)\.png", shown)) == set(sizes)
