"""The site's reference has every public name, and each says what it is."""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest

import agentlib
from agentlib import learners
from agentlib.catalog import LEARNERS, recipe_of

ROOT = Path(__file__).parents[1]


def configuration():
    """That of the site."""
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "site" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = configuration()
PAGES = SITE.pages_of_the_reference()
MODULES = {module for modules in PAGES.values() for module in modules}


def public_names():
    """Classes and functions that the package and its rooms name, with the place that names them."""
    for place in ("agentlib", *(f"agentlib.{room}" for room in SITE.ROOMS)):
        module = importlib.import_module(place)
        for name in dir(learners) if place == "agentlib.learners" else getattr(module, "__all__", ()):
            yield place, name, getattr(module, name)


def test_public_names_are_in_the_reference():
    named = [one for one in public_names() if str(getattr(one[2], "__module__", "")).startswith("agentlib")]
    assert len(named) > 250
    missing = [f"{place}.{name}" for place, name, value in named if value.__module__ not in MODULES]
    assert missing == []
    assert [f"{place}.{name}" for place, name, value in named if not inspect.getdoc(value)] == []
    assert set(agentlib.__all__) <= {name for place, name, _ in named if place == "agentlib"}


@pytest.mark.parametrize("room", PAGES)
def test_each_public_name_has_a_docstring(room):
    """Functions and classes in the text; a method without one is that of a contract, whose text it inherits."""
    for name in PAGES[room]:
        module = importlib.import_module(name)
        assert module.__doc__, name
        for node in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}.{node.name}"


@pytest.mark.parametrize("name", LEARNERS)
def test_each_field_of_a_config_has_a_help_text(name):
    """Under the field, or where the field is from."""
    config = recipe_of(name).config
    helped = set()
    for cls in config.__mro__:
        if dataclasses.is_dataclass(cls):
            [node] = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body
            assert isinstance(node, ast.ClassDef)
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    helped.add(ast.unparse(field.target))
    assert {field.name for field in dataclasses.fields(config)} - helped == set()
