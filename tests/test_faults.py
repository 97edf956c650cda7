"""What can go wrong around a run: signals, a second run, a full disk, environments and their processes."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import agentlib
import agentlib.runs.training
from agentlib import Agent
from agentlib.envs.subprocesses import Subprocesses
from agentlib.envs.vector import EnvironmentFailure
from agentlib.runs import checkpoints
from agentlib.runs.folder import RunFolder
from agentlib.runs.lock import locked
from agentlib.shell.main import main
from tests.tiny import FLAGS, IDENTITY, tiny_run

ROOT = Path(__file__).parents[1]


class Odd(gymnasium.Env):
    """Fine for so many steps; then what `trouble` says."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, trouble: Any = None, at: int = 60, render_mode: None = None) -> None:
        self.trouble, self.at, self.count, self.render_mode = trouble, at, 0, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.count += 1
        observation: Any = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        reward: Any = 1.0
        if self.count >= self.at:
            if isinstance(self.trouble, np.ndarray):
                observation = self.trouble
            elif self.trouble == "hangs":
                time.sleep(1000.0)
            elif self.trouble == "dies":
                os._exit(7)
            elif self.trouble == "reward":
                reward = np.ones(2)
            elif self.trouble == "four":
                return observation, reward, False, {}
        return observation, reward, self.count % 10 == 0, False, {}


def survived(folder, at_least=20):
    agent = Agent.load(folder / "agent.safetensors")
    assert agent.action_space.contains(agent.act(agent.observation_space.sample()))
    assert int(RunFolder(folder).checkpoints()[-1].stem.removeprefix("step_")) >= at_least


# Environments


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (np.full(3, np.inf, np.float32), "an observation with infinities at step 60"),
        (np.array([0, np.nan, 0], np.float32), "an observation with NaN at step 60"),
        (np.zeros((3, 1), np.float32), r"an observation of shape \(3, 1\) and dtype float32 at step 60"),
        (np.zeros(1, np.float32), r"an observation of shape \(1,\)"),  # numpy would broadcast it in silence
        (np.zeros(3, np.complex64), "and dtype complex64 at step 60, which does not fit Box"),
        (np.array(["a", "b", "c"]), "and dtype <U1 at step 60"),
        ("reward", r"a reward of shape \(2,\) in place of one number at step 60"),
        ("four", r"gave other values than Gymnasium's \(observation, .*at step 60"),
    ],
    ids=str,
)
def test_an_environment_that_gives_what_does_not_fit(trouble, message, tmp_path):
    with pytest.raises(EnvironmentFailure, match="(?s)" + message + ".*what was learned so far is in"):
        tiny_run(env=Odd(trouble), out=tmp_path / "run")
    survived(tmp_path / "run")


def test_a_part_of_the_observation_that_is_missing():
    class Parts(Odd):
        observation_space: Any = spaces.Dict({"where": spaces.Box(-1, 1, (3,)), "goal": spaces.Box(-1, 1, (3,))})

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            whole = {"where": observation, "goal": observation}
            return (whole if self.trouble == "later" else {"where": observation}), info

        def step(self, action):
            observation, *rest = super().step(action)
            return {"where": observation}, *rest

    with pytest.raises(EnvironmentFailure, match="reset raised, or gave an observation without 'goal'"):
        tiny_run(env=Parts("at once"))
    with pytest.raises(EnvironmentFailure, match="without 'goal' at step 1"):
        tiny_run(env=Parts("later"))


def test_numbers_of_another_precision_are_taken():
    tiny_run(env=Odd(np.zeros(3, np.float64)), steps=80)
    tiny_run(env=Odd(np.zeros(3, np.int8)), steps=80)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("hangs", r"raised at step 11\d: TimeoutError\('a step took longer than the limit of 2 seconds'\)"),
        ("dies", r"raised at step 11\d: ChildProcessError\('a worker process died during a step, exit code \[7"),
    ],
)
def test_a_worker_process_that_hangs_or_dies(trouble, message, tmp_path):
    envs = Subprocesses(Odd, 2, timeout=2.0, env_kwargs={"trouble": trouble})
    try:
        with pytest.raises(EnvironmentFailure, match="(?s)" + message + ".*what was learned so far is in"):
            tiny_run(env=envs, out=tmp_path / "run")
    finally:
        envs.close()
    assert not any(process.is_alive() for process in envs.processes)
    survived(tmp_path / "run")


@pytest.mark.slow
def test_worker_processes_that_do_well():
    envs = Subprocesses(IDENTITY, 2, timeout=60.0)
    agent = tiny_run(env=envs)
    envs.close()
    assert agent.action_space.contains(agent.act(0))
    with pytest.raises(ValueError, match="timeout is a number of seconds above 0, not 0"):
        Subprocesses(IDENTITY, timeout=0)


# Files


def full_disk(monkeypatch, after=0):
    """From the next so many files on, a write fails in the middle, as on a full disk."""
    left = [after]

    def save_file(tensors, path, *rest, **more):
        left[0] -= 1
        if left[0] >= 0:
            return original(tensors, path, *rest, **more)
        Path(path).write_bytes(b"half a fi")
        raise OSError(errno.ENOSPC, "No space left on device")

    original = checkpoints.save_file  # type: ignore[attr-defined]
    monkeypatch.setattr(checkpoints, "save_file", save_file)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    monkeypatch.setattr(agentlib.runs.training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    full_disk(monkeypatch, after=3)
    with pytest.raises(
        OSError, match=r"(?s)No space left .*could not be saved .*the last good checkpoint is "
    ) as caught:
        tiny_run(out=tmp_path / "run")
    monkeypatch.undo()
    last = RunFolder(tmp_path / "run").checkpoints()[-1]
    assert str(last) in caught.value.__notes__[0]
    assert caught.value.saved_in is None  # type: ignore[attr-defined]
    assert not list((tmp_path / "run").rglob("*.tmp"))
    agentlib.train(resume=tmp_path / "run", progress=False, compile=False)
    Agent.load(tmp_path / "run").act(0)


def test_a_full_disk_leaves_the_agent_before(tmp_path, monkeypatch):
    agent = tiny_run(steps=30)
    path = agent.save(tmp_path / "agent")
    before = path.read_bytes()

    def fails(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        agent.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Two runs in one folder

HOLD = """
import sys, time
from pathlib import Path
from agentlib.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_two_runs_in_one_folder_and_the_lock_of_a_dead_one(tmp_path):
    folder = tmp_path / "run"
    tiny_run(steps=60, out=folder)
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            message = rf"another run is at work in .*run \(process {other.pid}\)"
            with pytest.raises(ValueError, match=message):
                agentlib.train(resume=folder, progress=False, compile=False)
        finally:
            other.kill()
    agentlib.train(resume=folder, progress=False, compile=False)  # the file of the lock is still there


def test_a_lock_within_one_process(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=rf"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


# Signals


def started(folder):
    command = [sys.executable, "-m", "agentlib", "train", "dqn", "--env", IDENTITY, "--steps", "7_000_000"]
    process = subprocess.Popen(
        [*command, "--out", str(folder), *FLAGS, "--train-freq", "1000", "--gradient-steps", "1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # A test runner in the background may have been started with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(folder.glob("events*")):
        time.sleep(0.05)
    time.sleep(1.0)
    return process


@pytest.mark.slow
def test_sigterm_in_the_shell_saves(tmp_path):
    folder = tmp_path / "run"
    with started(folder) as process:
        try:
            process.send_signal(signal.SIGTERM)
            errors = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == 143
    assert errors.splitlines()[-1] == (
        f"agentlib: stopped; what was learned so far is in {folder}; to go on: agentlib train --resume {folder}"
    )
    Agent.load(folder).act(1)


@pytest.mark.slow
def test_ctrl_c_twice_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    """The second one comes while the first is being saved."""
    monkeypatch.setattr(agentlib.runs.training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    save, stopping = RunFolder.save, [False]

    def interrupted(self, learner, source, *rest):
        if stopping[0]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5.0)
            raise AssertionError("not stopped at once")
        written = save(self, learner, source, *rest)
        if source.clock.steps > 100:
            stopping[0] = True
            os.kill(os.getpid(), signal.SIGINT)
        return written

    monkeypatch.setattr(RunFolder, "save", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        folder = tmp_path / "run"
        assert main(["train", "dqn", "--env", IDENTITY, "--steps", "1000", "--out", str(folder), *FLAGS]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        "agentlib: stopped at once, nothing more was saved; the last good checkpoint is .*; to go on", last
    )
    monkeypatch.undo()
    agentlib.train(resume=folder, progress=False, compile=False)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Decisions are made by a clock that only goes forward."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    first = tiny_run(out=tmp_path / "a")
    monkeypatch.undo()
    again = tiny_run(out=tmp_path / "b")
    for name, tensor in first.policy.state_dict().items():
        assert (tensor == again.policy.state_dict()[name]).all()
    reading = [path for path in (ROOT / "agentlib").rglob("*.py") if "time.time()" in path.read_text(encoding="utf-8")]
    assert not reading
