"""The rooms of the package: an import only goes down, nothing goes in a circle, and files stay short."""

import ast
from functools import cache
from pathlib import Path

import pytest

import agentlib

PACKAGE = Path(agentlib.__file__).parent
FLOORS = [
    ("core",),
    ("engine",),
    ("backbones",),
    ("metrics",),
    ("data", "envs"),
    ("experience", "policies"),
    ("agent",),
    ("plots",),
    ("families",),
    ("catalog",),
    ("learners",),
    ("runs",),
    ("sb3",),
    ("shell",),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
AT_THE_ROOT = {"__init__.py", "__main__.py", "agent.py", "catalog.py", "testing.py"}
BY_NAME = {
    "agentlib/__init__.py",  # its names, when they are asked for
    "agentlib/core/__init__.py",  # likewise
    "agentlib/agent.py",  # Agent.from_sb3, and the Hub
    "agentlib/catalog.py",  # the learners, when they are asked for
    "agentlib/learners/__init__.py",  # likewise
    "agentlib/metrics/probes.py",  # scikit-learn
    "agentlib/runs/trackers.py",  # trackers of experiments
    "agentlib/shell/main.py",  # a command's file, when it is run
}
"""Files that import a module by its name, late."""
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file, which is parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "agentlib"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            base = node.module or ""
            if base.split(".")[0] == "agentlib":
                inside = {f"{base}.{alias.name}" for alias in node.names}
                found |= {name for name in inside if name in MODULES} or {base}
    return found


@cache
def all_imports() -> dict[str, set[str]]:
    """Of every module; when a test asks for it, as each worker imports this file."""
    return {name: imports(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_file_is_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == AT_THE_ROOT
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == {room for rooms in FLOORS for room in rooms} - {"agent", "catalog"}


def test_imports_only_go_down():
    up = [
        f"{module} imports {other}"
        for module, others in all_imports().items()
        for other in others
        if room(module) in FLOOR and FLOOR.get(room(other), 0) > FLOOR[room(module)]
    ]
    assert up == []


def test_no_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " > ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for other in sorted(all_imports().get(module, ())):
            visit(other, (*path, module))
        done.add(module)

    for module in all_imports():
        visit(module, ())


def test_rooms_of_one_floor_do_not_need_each_other_both_ways():
    pairs = {(room(module), room(other)) for module, others in all_imports().items() for other in others}
    assert [(a, b) for a, b in pairs if a < b and a and b and (b, a) in pairs] == []


def test_modules_are_imported_by_name_only_where_it_is_meant():
    found = set()
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for node in nodes(path) if "import_module" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                name = ast.unparse(node.args[0]).strip("f'\"")
                if name.startswith("agentlib") or not isinstance(node.args[0], ast.Constant):
                    found.add(str(path.relative_to(PACKAGE.parent)))
    assert found == BY_NAME


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    is_algorithm = path.parent.parent.name == "learners" and path.name != "__init__.py"
    assert text.count("\n") <= (200 if is_algorithm else 400)
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno + 1 <= 60, node.name
