"""What is installed, pinned and shipped: checks on the project's files rather than on its code."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import agentlib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file() and not path.is_symlink()]


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="ignore")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert [line for line, match in zip(lines, found, strict=True) if not match] == [], "neither a name nor a version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_one_version_everywhere() -> None:
    assert agentlib.__version__ == PYPROJECT["project"]["version"] == metadata.version("agentlib-rl")


def test_the_citation_has_the_version() -> None:
    version = re.search(r"^version: (.+)$", text_of(ROOT / "CITATION.cff"), re.MULTILINE)
    assert version is not None
    assert version[1] == agentlib.__version__


@pytest.mark.slow
def test_the_distributions_hold_the_package_and_no_links(tmp_path: Path) -> None:
    """From a copy, as a build writes beside the source."""
    source = tmp_path / "source"
    for path in tracked_files():
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / path.relative_to(ROOT))
    for name in ("envs", "policies", "learners"):
        (source / name).symlink_to(Path("agentlib", name))
    build = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    package = {path.relative_to(ROOT).as_posix() for path in tracked_files() if path.is_relative_to(ROOT / "agentlib")}
    assert {"agentlib/py.typed", "agentlib/engine/runtime.cpp", "agentlib/shell/preset_lengths.json"} <= package
    [wheel], [sdist] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as packed:
        assert {name for name in packed.namelist() if ".dist-info/" not in name} == package
    with tarfile.open(sdist) as archive:
        assert {member.type for member in archive} <= {tarfile.REGTYPE, tarfile.DIRTYPE}
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml", "constraints.txt"}
    assert files | package <= names
    assert {name.split("/")[0] for name in names} & {"envs", "policies", "learners", "tests"} == set()


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(agentlib.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("name", ["envs", "policies", "learners"])
def test_links_at_the_root_lead_into_the_package(name: str) -> None:
    link = ROOT / name

    if not link.is_symlink():
        pytest.skip("checked out without symbolic links")
    assert link.readlink() == Path("agentlib") / name
    assert link.is_dir()


def test_only_agentlib_is_installed() -> None:
    packages = setuptools.find_namespace_packages(str(ROOT), **PYPROJECT["tool"]["setuptools"]["packages"]["find"])

    assert {name.split(".")[0] for name in packages} == {"agentlib"}
    assert {"agentlib.envs", "agentlib.policies", "agentlib.learners"} <= set(packages)


@pytest.mark.parametrize("extra", ["core", *EXTRAS])
def test_each_dependency_is_pinned_within_its_range(extra: str) -> None:
    pinned = pins()
    requirements = PYPROJECT["project"]["dependencies"] if extra == "core" else EXTRAS[extra]

    for requirement in map(Requirement, requirements):
        if requirement.name == "agentlib-rl":
            assert set(EXTRAS) - {extra} == requirement.extras, "`dev` has every extra"
        else:
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_each_extra_that_is_named_exists() -> None:
    named = {
        (str(path.relative_to(ROOT)), extra.strip())
        for path in tracked_files()
        if path.suffix in {".py", ".md"}
        for group in re.findall(r"agentlib-rl\[([a-z0-9, -]+)\]", text_of(path))
        for extra in group.split(",")
    }

    assert {(path, extra) for path, extra in named if extra not in EXTRAS} == set()


def test_no_file_names_somebodys_home() -> None:
    home = re.compile(r"/(?:home|Users|root)/\w|[A-Z]:\\+Users\\")

    assert [str(path.relative_to(ROOT)) for path in tracked_files() if home.search(text_of(path))] == []
