"""The page on backbones has every backbone, and its pictures are those that their script draws."""

import importlib.util
import re
from pathlib import Path

from agentlib.backbones import BACKBONES

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PAGES = ("generative", "self_supervised")
OTHERS = {"q_learning_options.svg", "growth.svg", "rooms.svg"}
"""Drawn from the files of results by `make results`, and from the imports of the package by rooms.py."""


def script(name):
    spec = importlib.util.spec_from_file_location(name, PICTURES / f"{name}.py")
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
