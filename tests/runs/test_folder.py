"""A run's folder: nothing outside is touched, one run at a time, and what was half written goes."""

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from asyncio import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agentlib
import agentlib.runs.training
from agentlib import Agent
from agentlib.experience import record_episodes
from agentlib.runs.folder import RunFolder
from agentlib.runs.lock import locked
from agentlib.shell.main import main
from tests.test_resume import Killed
from tests.tiny import FLAGS, IDENTITY, tiny_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def begun(what="dqn", **settings):
    if what == "dqn":
        return tiny_run(**settings)
    return agentlib.train(what, progress=False, compile=False, **settings)


def killed_run(folder, what="dqn", reports=20, **settings):
    """A run that was killed half way; nothing is saved on the way out."""
    seen = [0]

    def callback(clock, metrics):
        seen[0] += 1
        if seen[0] == reports:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(agentlib.runs.training, "CHECKPOINTS_PER_RUN", 20)
        with pytest.raises(Killed):
            begun(what, out=folder, callback=callback, **settings)
    return RunFolder(folder)


def resumed(folder, **settings):
    return agentlib.train(resume=folder, progress=False, compile=False, **settings)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Files of others


@pytest.mark.parametrize("name", [".lock", "checkpoints", "replay", "config.json", "checkpoints/mine", "report.html"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    run = killed_run(tmp_path / "run")
    place, outside = run.path / name, tmp_path / "outside"
    if place.is_dir() or name == "replay":
        outside.mkdir()
        (outside / "step_000000000000.safetensors").write_text("precious")
        (outside / "00000001.safetensors").write_text("precious")
        if place.is_dir():
            place.rename(tmp_path / "before")
    else:
        outside.write_bytes(place.read_bytes() if name == "config.json" else b"precious")
        place.unlink(missing_ok=True)
    place.symlink_to(outside)
    before = contents(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises(ValueError, match=rf"'{name.rpartition('/')[2]}' in .*run.* is a symbolic link"):
        resumed(run.path)
    assert (contents(outside) if outside.is_dir() else outside.read_bytes()) == before


def test_a_folder_of_other_things_is_refused_and_stays_as_it_is(tmp_path, capsys):
    project = tmp_path / "project"
    (project / "replay").mkdir(parents=True)
    for name in ("agent.safetensors", "replay/mine.safetensors", "replay/00000001.safetensors", "notes.txt"):
        (project / name).write_text("precious")
    before = contents(project)
    with pytest.raises(ValueError, match=r"'agent.safetensors' in .*project is of no run: a new run needs a folder"):
        tiny_run(out=project)
    assert main(["train", "dqn", "--env", IDENTITY, "--steps", "100", "--out", str(project), *FLAGS]) == 1
    assert "is of no run" in capsys.readouterr().err
    assert contents(project) == before
    with pytest.raises(ValueError, match=r"notes.txt is a file, and a run needs a folder"):
        tiny_run(out=project / "notes.txt")


def test_hidden_files_do_no_harm(tmp_path):
    (tmp_path / ".gitignore").write_text("*")
    tiny_run(out=tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*"


def test_only_names_of_ours_are_deleted(tmp_path):
    run = killed_run(tmp_path / "run")
    run.segments.folder.mkdir(exist_ok=True)
    mine = [run.path / "checkpoints" / "step_best.safetensors", run.segments.folder / "mine.safetensors"]
    mine += [run.path / ".notes.tmp", run.path / ".tmp", run.path / "checkpoints" / ".tmpfile"]
    for path in mine:
        path.write_text("precious")
    resumed(run.path)
    assert [path.read_text() for path in mine] == ["precious"] * len(mine)


def test_the_programs_folder_may_change(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    tiny_run(out="run", callback=lambda clock, metrics: os.chdir(tmp_path / "there"))
    assert not list((tmp_path / "there").iterdir())
    for name in ("agent.safetensors", "results.json", "report.html"):
        assert (tmp_path / "run" / name).is_file()


# What a killed run leaves

WRITES = """
import sys, torch
from agentlib.runs.checkpoints import save_state
while True:
    save_state(sys.argv[1], {"x": torch.zeros(30_000_000)})
"""


@pytest.mark.slow
def test_what_safetensors_was_writing_is_deleted(tmp_path):
    run = killed_run(tmp_path / "run")
    place = run.path / "checkpoints"

    def half_written():
        return [path.name for path in place.iterdir() if path.name.startswith(".tmp")]

    for _ in range(20):
        command = [sys.executable, "-c", WRITES, str(place / "step_000000000007.safetensors")]
        with subprocess.Popen(command, cwd=ROOT) as writer:
            deadline = time.monotonic() + 60
            while not half_written() and time.monotonic() < deadline:
                time.sleep(0.001)
            writer.kill()
        if half_written():
            break
    assert half_written()
    (place / "step_000000000007.safetensors").unlink(missing_ok=True)
    resumed(run.path)
    assert not [path for path in run.path.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_the_newest_checkpoint_is_no_file(kind, tmp_path):
    run = killed_run(tmp_path / "run")
    last = run.checkpoints()[-1]
    last.unlink()
    last.mkdir() if kind == "folder" else os.mkfifo(last)
    with pytest.warns(UserWarning, match=f"{last.name} is no regular file; going on from the checkpoint before it"):
        agent: Any = resumed(run.path)
    whole: Any = tiny_run(out=tmp_path / "whole")
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(agent.policy.state_dict()[name], tensor)


class Ends(gymnasium.Wrapper):
    """Ends the program at step 100."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.error, self.count = error, 0

    def step(self, action):
        self.count += 1
        if self.count == 100:
            raise self.error
        return super().step(action)


@pytest.mark.parametrize("error", [SystemExit(3), CancelledError()], ids=repr)
def test_an_environment_that_ends_the_program_loses_nothing(error, tmp_path):
    with pytest.raises(type(error)) as caught:
        tiny_run(env=Ends(error), out=tmp_path / "run")
    assert caught.value.saved_in == tmp_path / "run"
    assert int(RunFolder(tmp_path / "run").checkpoints()[-1].stem.removeprefix("step_")) >= 90
    Agent.load(tmp_path / "run").act(np.zeros(4, np.float32))


def test_an_environment_that_ends_the_program_in_the_shell(tmp_path, capsys):
    gymnasium.register("Ends-v0", lambda **_: Ends(SystemExit(3)))
    try:
        assert main(["train", "dqn", "--env", "Ends-v0", "--steps", "500", "--out", str(tmp_path / "run"), *FLAGS]) == 3
    finally:
        gymnasium.registry.pop("Ends-v0")
    assert f"agentlib: stopped; what was learned so far is in {tmp_path / 'run'}" in capsys.readouterr().err


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("what", ["dqn", "vae"])
def test_a_disk_that_is_full(what, small_disk, monkeypatch):
    """While checkpoints are written, in the place of which none of them is lost."""
    monkeypatch.setattr(agentlib.runs.training, "CHECKPOINTS_PER_RUN", 20)
    filler, seen = small_disk / "filler", [0]

    def callback(clock, metrics):
        seen[0] += 1
        if seen[0] == 30:
            with open(filler, "wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 10))

    settings: Any = {} if what == "dqn" else {"data": "digits", "steps": 200, "net_arch": (8,)}
    with pytest.raises(OSError, match=r"(?s)No space left on device.*could not be saved.*the last good checkpoint is "):
        begun(what, out=small_disk / "run", callback=callback, **settings)
    filler.unlink()
    assert not list((small_disk / "run").rglob("*tmp*"))
    resumed(small_disk / "run")
    assert (small_disk / "run" / "results.json").is_file()


def test_a_disk_that_is_full_when_the_run_begins(small_disk):
    (small_disk / "filler").write_bytes(bytes((4 << 20) - 4096 * 6))
    with pytest.raises(OSError, match="No space left on device"):
        tiny_run(out=small_disk / "run")
    (small_disk / "filler").unlink()
    if (small_disk / "run" / "config.json").exists():
        resumed(small_disk / "run")
    else:
        tiny_run(out=small_disk / "run")
    Agent.load(small_disk / "run").act(0)


QUOTA = """
import resource, sys
from agentlib import Agent
agent = Agent.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    agent.save(sys.argv[2])
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_quota_that_is_used_up(tmp_path):
    path = tiny_run(steps=30).save(tmp_path / "agent")
    assert path.stat().st_size > 1000
    place = tmp_path / "other.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", QUOTA, path, place], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"OSError [Errno 27] File too large: '{place}'\n", done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.safetensors"]


# Two runs in one folder


def a_run(folder, seed, barrier, queue):
    try:
        barrier.wait()
        tiny_run(out=folder, seed=seed, steps=400)
        queue.put((seed, "trained"))
    except ValueError as error:
        queue.put((seed, str(error)))


@needs_fork
@pytest.mark.slow
def test_of_two_runs_that_begin_at_once_one_is_refused_and_changes_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    for pair in range(8):
        folder, barrier, queue = tmp_path / f"{pair}", context.Barrier(2), context.Queue()
        runs = [context.Process(target=a_run, args=(folder, seed, barrier, queue)) for seed in (1, 2)]
        for run in runs:
            run.start()
        found = dict(queue.get(timeout=100) for _ in runs)
        for run in runs:
            run.join()
        (winner,) = [seed for seed, text in found.items() if text == "trained"]
        assert "another run is at work" in found[3 - winner] or "holds a run already" in found[3 - winner]
        assert json.loads((folder / "config.json").read_text())["seed"] == winner


def asleep():
    """Until it is killed."""
    time.sleep(1000)
    os._exit(0)


@needs_fork
@pytest.mark.parametrize("way", ["Python", "C"])
def test_a_forked_process_does_not_keep_the_lock(way, tmp_path):
    """That of the host, or of an environment, which outlives the run."""
    with locked(tmp_path):
        child = os.fork() if way == "Python" else ctypes.PyDLL(None).fork()
        if child == 0:
            asleep()
        with pytest.raises(ValueError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


FORKS = """
import os, signal, sys, time
from pathlib import Path
from agentlib.runs.lock import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.closerange(0, 3)
        time.sleep(1000)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_fork
def test_a_process_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    child = int(done.stdout)
    try:
        os.kill(child, 0)  # it is alive
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@needs_fork
def test_a_forked_process_that_leaves_the_run_does_not_free_the_lock(tmp_path):
    with locked(tmp_path):
        child = -1
        try:
            with locked(tmp_path / "another"):
                child = os.fork()
        finally:
            if child == 0:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(ValueError, match="another run is at work"), locked(tmp_path):
            pass


# What a file may name, and what has changed since

EVIL = """
import gymnasium
print("evil ran")
gymnasium.register("Nice-v0", "agentlib.envs.identity:Identity")
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that a file names; whether it is imported."""
    (tmp_path / "evilmod.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: "evilmod" in sys.modules
    sys.modules.pop("evilmod", None)
    gymnasium.registry.pop("Nice-v0", None)


def test_no_module_is_imported_because_a_record_names_it(evil, tmp_path, capsys):
    run = killed_run(tmp_path / "run")
    record = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps({**record, "env": "evilmod:Nice-v0"}))
    with pytest.raises(ValueError, match=r"names the environment 'evilmod:Nice-v0', whose module .*: give env= again"):
        resumed(run.path)
    assert main(["train", "--resume", str(run.path)]) == 1
    assert "evilmod:Nice-v0" in capsys.readouterr().err
    assert not evil()
    assert main(["train", "--resume", str(run.path), "--env", "evilmod:Nice-v0"]) == 0
    assert evil()


def test_data_that_have_changed_since(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(300, 3)).astype(np.float32), np.arange(300) % 2
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=y)
    for out in ("same", "other"):
        killed_run(tmp_path / out, "classifier", data=str(path), steps=200)
    resumed(tmp_path / "same")
    x *= 1.001
    np.savez(path, x=x, y=y)
    with pytest.warns(UserWarning, match="the data have changed since the run began"):
        resumed(tmp_path / "other")


SMALL: dict[str, dict[str, Any]] = {
    "bc": {"net_arch": (8,)},
    "decision_transformer": {"embed_dim": 8, "n_layers": 1, "context_length": 3, "batch_size": 4},
}


@pytest.mark.parametrize("what", SMALL)
def test_demonstrations_that_have_changed_since(what, tmp_path):
    demonstrations = record_episodes(tiny_run(env="CartPole-v1", steps=40), "CartPole-v1", episodes=4)
    path = demonstrations.save(tmp_path / "demos")
    for out in ("same", "other"):
        killed_run(tmp_path / out, what, demos=str(path), steps=100, **SMALL[what])
    resumed(tmp_path / "same")
    demonstrations.observation_columns[0][2, 1] += 1e-3
    demonstrations.save(path)
    with pytest.warns(UserWarning, match="the data have changed since the run began"):
        resumed(tmp_path / "other")
