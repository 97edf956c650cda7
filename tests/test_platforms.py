"""What other systems lack is taken away: training, saving and going on work without it, and nothing is compiled."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agentlib.data import mapped
from agentlib.data.text import text_of
from agentlib.engine import compiled

WITHOUT = '''
"""As on Windows: no fcntl, fork, process groups or compiler; files that are flushed, renamed and locked as there."""
import os, shutil, sys, types
import gymnasium, torch, torch.utils.tensorboard  # of others, who have their own ways there

away = "fork forkpty register_at_fork killpg posix_fallocate O_NOFOLLOW getuid sched_getaffinity"
for name in away.split():
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
os.environ["PATH"] = os.devnull
os.environ.pop("CXX", None)

held, shutil._use_fd_functions = {}, False

def locking(file, mode, count):
    place = os.fstat(file).st_ino
    assert count == 1 and os.lseek(file, 0, os.SEEK_CUR) == 1 << 20, "a byte that nobody writes"
    if place in held:
        raise PermissionError(13, "Permission denied")
    held[place] = file

def closing(file):
    for place in [place for place, holder in held.items() if holder == file]:
        del held[place]
    closed(file)

sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
fsync, rename, flags = os.fsync, os.rename, {}
opened, closed = os.open, os.close

def keeping(path, mode, *more, **others):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))  # a folder cannot be opened there
    flags[file := opened(path, mode, *more, **others)] = mode
    return file

def flushing(file):
    number = file if isinstance(file, int) else file.fileno()
    if number in flags and flags[number] & 3 == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    fsync(number)

def renaming(old, new, **others):
    if os.path.lexists(new):
        raise FileExistsError(17, "File exists", str(old), None, str(new))
    rename(old, new, **others)

os.open, os.close, os.fsync, os.rename = keeping, closing, flushing, renaming
'''
RUN = """
import sys
import agentlib
from agentlib.runs.folder import RunFolder

tiny = dict(net_arch=(16,), buffer_size=1000, learning_starts=20, batch_size=16)

def stop(clock, metrics):
    try:
        agentlib.train(resume="run", progress=False)
    except ValueError as error:
        assert "another run is at work in" in str(error), error
        return False
    raise AssertionError("two runs were at work in one folder")

log = ("tensorboard", "csv")
agentlib.train("dqn", env="CartPole-v1", steps=300, out="run", callback=stop, progress=False, log=log, **tiny)
for damaged in RunFolder("run").checkpoints()[-1:]:
    damaged.with_suffix(".damaged").write_bytes(b"of an earlier time")
    damaged.write_bytes(b"cut short")
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    agent = agentlib.train(resume="run", progress=False)
assert agentlib.Agent.load("run").act(agent.observation_space.sample()) in (0, 1)
agentlib.evaluate(agent, episodes=1)
agentlib.train("ppo", env="CartPole-v1", steps=64, n_envs=2, n_steps=16, batch_size=16, progress=False)
agentlib.train("classifier", data="digits", steps=3, out="images", progress=False)
from agentlib.shell.main import main
assert main(["evaluate", "run", "--episodes", "1"]) == 0
assert main(["inspect", "run/agent.safetensors"]) == 0
assert main(["report", "run", "--out", "page.html"]) == 0
try:
    agentlib.train("dqn", env="CartPole-v1", steps=100, compile=True, progress=False, **tiny)
except Exception as error:
    assert "compiler" in str(error), error
else:
    raise AssertionError("compiled without a compiler")
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="takes from Linux what other systems lack")
def test_runs_where_nothing_of_unix_is_there(tmp_path: Path) -> None:
    """Files are read and written in the encoding that they have, and never in the system's own."""
    program = tmp_path / "program.py"
    program.write_text(WITHOUT + RUN)
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")
    root = str(Path(compiled.__file__).parents[1])
    of_ours = [line for line in done.stderr.splitlines() if "EncodingWarning" in line and line.startswith(root)]
    assert of_ours == []


def test_no_compiler_is_looked_for_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    assert compiled.compiler() == sys.executable
    monkeypatch.setattr("agentlib.engine.compiled.os.name", "nt")
    assert compiled.compiler() is None


def test_large_data_are_mapped_without_a_second_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the temporary folder has no second opening on Windows; and there is no room to ask for."""
    found, usual = [], np.memmap

    def mapping(file: object, *arguments: object, **settings: object) -> object:
        assert not isinstance(file, str | os.PathLike)
        found.append(file)
        return usual(file, *arguments, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "memmap", mapping)
    monkeypatch.setattr(mapped, "LARGE", 64)
    monkeypatch.setattr("agentlib.data.text.LARGE", 64)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    array = mapped.room_for((10, 20), np.float32)
    array[:] = 1.0
    assert array.sum() == 200.0
    (tmp_path / "words.txt").write_text("abcdefgh" * 100)
    assert text_of(tmp_path / "words.txt", tokenizer="characters").tokens.shape == (800,)
    assert len(found) == 2
