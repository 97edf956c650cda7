"""Where an update cannot be compiled, for whatever reason, training runs in plain PyTorch, and says so in one line."""

import json
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from agentlib.backbones import adam
from agentlib.core import Learner, Step, Update
from agentlib.core.trees import copied, difference
from agentlib.engine import compiled, libraries, run, torch_private
from agentlib.engine.compiled import compiler, compiler_found
from agentlib.engine.tape import CannotCompile
from tests.engine.draws import Draws

needs_compiler = pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
ROOT = Path(__file__).parents[2]
UPDATES = 4


class Fits(Learner):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Linear(3, 1)
        self.step = Step(self.network, adam(0.01))

    def update(self, batch):
        loss = (self.network(batch.x) - 1.0).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()})


def trained(compile, learner_class=Fits):
    """The state after some updates, and the warnings."""
    learner, source = learner_class(), Draws()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in run(learner, source, UPDATES, compile=compile):
            pass
    return [copied(module) for module in (learner, source)], [str(warning.message) for warning in caught]


def falls_back(monkeypatch, message):
    """Under "try" and "auto" with one warning; with True it is an error."""
    monkeypatch.setattr("agentlib.engine.loop.AUTO_COMPILE_UPDATES", UPDATES)
    monkeypatch.setattr("agentlib.engine.loop.compiler_found", lambda: True)
    plain, _ = trained(False)
    for way in ("try", "auto"):
        state, said = trained(way)
        assert difference(plain, state) is None
        assert len(said) == 1
        assert said[0].startswith("training runs uncompiled and slower: ")
        assert message in said[0]
        assert "\n" not in said[0]
    with pytest.raises(CannotCompile, match=re.escape(message)):
        trained(True)


def test_another_version_of_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.0+cpu")
    falls_back(monkeypatch, "torch 2.14.0")


def test_this_version_of_torch_is_tested():
    """A new version is added to `TESTED` once all tests pass with it."""
    assert torch_private.is_tested()


@pytest.mark.parametrize(
    "error", [RuntimeError("CppCompileError: C++\n\nlong\ntext"), ImportError("no sympy")], ids=repr
)
def test_a_compiler_that_fails(error, monkeypatch, tmp_path):
    def fails(*arguments):
        raise error

    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch_private, "build_library", fails)
    falls_back(monkeypatch, f"could not be built: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert not list((tmp_path / "compiled").iterdir())


def test_a_library_that_cannot_be_loaded(monkeypatch, tmp_path):
    def build(graph, tensors, folder, headers, compiler, notice):
        Path(folder, "graph.so").write_bytes(b"no machine code")
        return Path(folder, "graph.so")

    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch_private, "build_library", build)
    falls_back(monkeypatch, "could not be built: RuntimeError")


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("a file, and no folder")
    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path / "file" / "cache"))
    falls_back(monkeypatch, "NotADirectoryError")


def test_a_full_disk(monkeypatch, tmp_path):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path))
    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    falls_back(monkeypatch, "No space left on device")


class FailsTraced(Fits):
    """Looks itself up, as a cache by objects does."""

    def update(self, batch):
        if type(self) is not FailsTraced:
            raise KeyError(self)
        return super().update(batch)


class FailsAlways(Fits):
    def update(self, batch):
        raise ZeroDivisionError("mine")


def test_an_error_while_tracing():
    plain, _ = trained(False, FailsTraced)
    state, said = trained("try", FailsTraced)
    assert difference(plain, state) is None
    assert len(said) == 1
    assert "KeyError" in said[0]
    with pytest.raises(KeyError):
        trained(True, FailsTraced)
    for way in (False, "try", True):
        with pytest.raises(ZeroDivisionError, match="mine"):
            trained(way, FailsAlways)


def test_a_damaged_library_is_built_again(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTLIB_CACHE", str(tmp_path))
    contents, built = b"\x7fELF" + bytes(1000), []

    def build(folder):
        built.append(folder)
        (folder / "graph.so").write_bytes(contents)
        return folder / "graph.so"

    path = libraries.kept("name", build)
    assert [*path.parent.iterdir()] == [path]
    assert libraries.kept("name", build) == path
    assert len(built) == 1
    for number, damage in enumerate((b"", contents[:500], contents[:-1] + b"x", contents + b"x"), start=2):
        path.write_bytes(damage)
        assert libraries.kept("name", build) == path
        assert path.read_bytes() == contents
        assert len(built) == number
        assert [*path.parent.iterdir()] == [path]
    assert libraries.kept("other", build) != path


def test_the_compiler_that_is_used(monkeypatch, tmp_path):
    for name in ("clang++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler() == str(tmp_path / "clang++")
    monkeypatch.setenv("CXX", "mine")
    assert compiler() == str(tmp_path / "mine")
    monkeypatch.setenv("CXX", "nowhere")
    assert compiler() is None
    assert not compiled.compiler_found()


# In processes of their own -------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
import agentlib.engine.loop as loop
from agentlib.engine.tape import CannotCompile
from tests.engine.draws import Draws
from tests.engine.test_fallback import UPDATES, trained

loop.AUTO_COMPILE_UPDATES = UPDATES
found = []
for way in {ways!r}:
    try:
        state, said = trained(way)
        found.append([float(state[0]["network.weight"].sum()), said])
    except CannotCompile as error:
        found.append([None, [str(error)]])
print(json.dumps(found))
"""


def in_another_process(ways, **environment):
    command = [sys.executable, "-c", SCRIPT.format(root=str(ROOT), ways=ways)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
def test_a_compiler_that_is_there_and_fails(tmp_path):
    (tmp_path / "g++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    caches = {"AGENTLIB_CACHE": str(tmp_path / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    (plain, trying, auto, must), errors = in_another_process([False, "try", "auto", True], PATH=path, CXX="", **caches)
    assert plain[1] == []
    for found in (trying, auto):
        assert found[0] == plain[0]
        assert len(found[1]) == 1
        assert "could not be built" in found[1][0]
    assert must[0] is None
    assert errors == ""


@pytest.fixture(params=["a folder in which nothing can be made", "a disk that is read only"])
def read_only(request, tmp_path):
    """A home in which not even root can write."""
    if request.param.startswith("a folder"):
        yield "/proc"
        return
    how = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if subprocess.run(how, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield str(tmp_path)
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="not on Linux")
def test_a_home_that_cannot_be_written(read_only):
    no_others = {"AGENTLIB_CACHE": "", "XDG_CACHE_HOME": ""}
    (plain, found), errors = in_another_process([False, "auto"], HOME=read_only, **no_others)
    assert found[0] == plain[0]
    assert len(found[1]) == 1
    assert found[1][0].startswith("training runs uncompiled and slower: ")
    assert "could not be built" in found[1][0]
    assert errors == ""


@pytest.mark.slow
@needs_compiler
def test_a_library_that_was_cut_is_not_loaded(tmp_path):
    (first,), _ = in_another_process([True], AGENTLIB_CACHE=str(tmp_path))
    (path,) = (tmp_path / "compiled").glob("*.so")
    whole = path.read_bytes()
    for length in (0, len(whole) // 2):
        path.write_bytes(whole[:length])
        (again,), _ = in_another_process([True], AGENTLIB_CACHE=str(tmp_path))
        assert again == first
        (path,) = (tmp_path / "compiled").glob("*.so")
        assert path.stat().st_size > 0.9 * len(whole)


@pytest.mark.slow
@needs_compiler
def test_a_cache_with_a_space_in_its_name(tmp_path):
    (found,), _ = in_another_process([True], AGENTLIB_CACHE=str(tmp_path / "a b"))
    assert found[0] is not None, found
    assert len([*(tmp_path / "a b" / "compiled").glob("*.so")]) == 1


def test_a_compiler_that_hangs_and_one_that_fails_are_ended(monkeypatch, tmp_path):
    """With their children, and those of the commands beside them."""
    monkeypatch.setattr(torch_private, "LONGEST_BUILD", 1.0)
    child = tmp_path / "child"
    hangs = ["sh", "-c", f"sleep 60 & echo $! > {child}; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        torch_private._run_together([hangs])
    assert not is_running(int(child.read_text()))
    monkeypatch.setattr(torch_private, "LONGEST_BUILD", 60.0)
    with pytest.raises(RuntimeError, match="no such file"):
        torch_private._run_together([["sh", "-c", "sleep 0.3; echo no such file; exit 1"], hangs])
    assert not is_running(int(child.read_text()))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def on_a_terminal(program, **environment):
    """What a program shows on one, with the seconds at which it does."""
    terminal, end = pytest.importorskip("pty").openpty()
    settings = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"} | environment
    began, shown = time.monotonic(), []
    with subprocess.Popen(
        [sys.executable, *program], stdin=end, stdout=end, stderr=end, env=settings, cwd=environment["XDG_CACHE_HOME"]
    ) as process:
        os.close(end)
        while True:
            try:
                text = os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
            shown.append((time.monotonic() - began, text))
    os.close(terminal)
    assert process.returncode == 0, "".join(text for _, text in shown)
    return shown


TRAINED = (
    "-m agentlib train dqn --env CartPole-v1 --steps 60 --learning-starts 20 --buffer-size 100 --compile --out run"
)
PARTS = "from tests.engine.test_fallback import trained; trained(True)"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("program", [TRAINED.split(), ["-c", PARTS]], ids=["the shell", "a loop of one's own"])
def test_compiling_is_not_silent(program, tmp_path):
    """Where nothing is kept from before, a line says so at the beginning, and stays while it lasts.

    Also on a terminal that does not say how wide it is, as this one and those of some containers.
    """
    shown = on_a_terminal(program, XDG_CACHE_HOME=str(tmp_path), AGENTLIB_CACHE="")
    began, ended = (
        next(at for at, text in shown if word in text) for word in ("compiling, half a minute", "compiled in")
    )
    assert began < 0.6 * ended
    assert "compiling" in [text for at, text in shown if at < ended][-1]
