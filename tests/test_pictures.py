"""The page on backbones has every backbone, and its pictures are those that their script draws."""

import importlib.util
from pathlib import Path

from agentlib.backbones import BACKBONES

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
OTHERS = {"q_learning_options.svg", "growth.svg", "rooms.svg"}
"""Drawn from the files of results by `make results`, and from the imports of the package by rooms.py."""


def test_pictures_are_drawn_from_the_networks():
    spec = importlib.util.spec_from_file_location("draw", PICTURES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures = module.pictures()
    assert sorted(pictures) == sorted(path.name for path in PICTURES.glob("*.svg") if path.name not in OTHERS)
    for name, content in pictures.items():
        assert (PICTURES / name).read_text(encoding="utf-8") == content, f"{name}: run python docs/pictures/draw.py"


def test_the_page_has_every_backbone():
    rows = [
        line for line in (PICTURES.parent / "backbones.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    named = {name for row in rows for name in BACKBONES if f"`{name}`" in row.split("|")[1]}
    assert named == set(BACKBONES)
