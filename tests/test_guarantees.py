"""Every test that the page of guarantees names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guarantees.md"


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 15
    for file in sorted({file for file, _ in named}):
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        there = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        missing = [test for place, test in named if place == file and test not in there]
        assert not missing, f"{file} has no {missing}"


def test_every_row_names_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row for row in rows if "tests/" not in row and not row.startswith("| promise")] == []


def test_thorough_tests_are_slow_too(request):
    """So that the quick tests, those which are not slow, have none of them."""
    marks = [[mark.name for mark in item.iter_markers()] for item in request.session.items]
    assert [names for names in marks if "thorough" in names and "slow" not in names] == []
