"""A run that was killed and resumed equals one that was never stopped, in every bit of its checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from safetensors.torch import load_file

import agentlib
import agentlib.runs.checkpoints
import agentlib.runs.training
from agentlib import Agent
from agentlib.core.trees import difference
from agentlib.engine.compiled import compiler_found
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import record_episodes
from agentlib.runs.checkpoints import load_state
from agentlib.runs.folder import RunFolder
from agentlib.runs.segments import DamagedFile, Segments
from tests.moody import Moody

pytestmark = pytest.mark.slow

CONTROL: dict[str, Any] = {"net_arch": (16,), "learning_starts": 60, "batch_size": 16, "steps": 600}
CONTROL |= {"train_freq": 4, "gradient_steps": 1}  # whatever the preset says
MEMORY: dict[str, Any] = {"backbone": "gru", "net_arch": (8,), "learning_starts": 60, "batch_size": 4, "train_freq": 8}
MEMORY |= {"burn_in": 4, "sequence_length": 8, "sequence_period": 4, "steps": 600}
ROLLOUTS: dict[str, Any] = {"n_steps": 30, "batch_size": 20, "n_epochs": 3, "net_arch": (8,), "steps": 600}
ROUNDS: dict[str, Any] = {"rounds": 3, "rollout_round_min_timesteps": 60, "rollout_round_min_episodes": 2, "epochs": 2}


def vector_environment() -> Any:
    factories = [lambda: gymnasium.make("CartPole-v1")] * 2
    return SyncVectorEnv(factories, autoreset_mode=AutoresetMode.NEXT_STEP)


def demonstrations() -> Any:
    return record_episodes(cartpole_expert, "CartPole-v1", 8, noise=0.5)


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", {"env": "CartPole-v1", "eval_every": 150, **CONTROL}),
    "options": (
        "rainbow",
        {"env": "CartPole-v1", "normalize": True, "n_steps": 3, "buffer_size": 200, "n_atoms": 11, **CONTROL},
    ),
    "environments": ("dqn", {"env": "CartPole-v1", "n_envs": 3, **CONTROL, "gradient_steps": -1}),
    "vector": ("dqn", {"env": vector_environment, "prioritized": True, **CONTROL}),
    "masks": ("dqn", {"env": Moody, "env_kwargs": {"sizes": (3, 2)}, **CONTROL}),
    "rollout": (
        "ppo",
        {"env": "CartPole-v1", "n_envs": 2, "normalize": True, "normalize_reward": True, "target_kl": 0.01, **ROLLOUTS},
    ),
    "rollout, masks": ("a2c", {"env": Moody, "env_kwargs": {"sizes": (3, 2)}, "net_arch": (8,), "steps": 600}),
    "rollout, masks, memory": (
        "ppo",
        {
            "env": Moody,
            "env_kwargs": {"sizes": (3, 2)},
            "backbone": "gru",
            "sequence_length": 5,
            "n_envs": 2,
            **ROLLOUTS,
        },
    ),
    "rollout, noise": ("ppo", {"env": "Pendulum-v1", "n_envs": 2, "use_sde": True, "sde_sample_freq": 4, **ROLLOUTS}),
    "replay, noise": ("sac", {"env": "Pendulum-v1", "use_sde": True, **CONTROL}),
    "memory": ("recurrent_dqn", {"env": "CartPole-v1", "previous_action": True, "n_envs": 2, **MEMORY}),
    "bc": ("bc", {"demos": demonstrations, "net_arch": (16,), "validation": 0.25, "patience": 3, "steps": 600}),
    "dagger": ("dagger", {"env": "CartPole-v1", "expert": cartpole_expert, "n_envs": 2, "beta": 0.5, **ROUNDS}),
    "dagger, memory": (
        "dagger",
        {"env": "CartPole-v1", "expert": cartpole_expert, "backbone": "gru", "sequence_length": 10, **ROUNDS},
    ),
    "dagger, ensemble": (
        "dagger",
        {
            "env": "CartPole-v1",
            "expert": cartpole_expert,
            "gate": "disagreement",
            "ensemble": 2,
            "normalize": True,
            **ROUNDS,
        },
    ),
    "vae": ("vae", {"data": "digits", "steps": 60}),
    "classifier": ("classifier", {"data": "digits", "net_arch": (16,), "steps": 400, "patience": 2, "eval_every": 20}),
    "stops by itself": (
        "classifier",
        {"data": "digits", "net_arch": (16,), "learning_rate": 1.0, "steps": 400, "patience": 2, "eval_every": 20},
    ),
    "simclr": ("simclr", {"data": "digits", "steps": 12, "batch_size": 32}),
    "maml": ("maml", {"data": "sinusoids", "steps": 60}),
    "wgan": ("wgan", {"data": "8gaussians", "net_arch": (16,), "batch_size": 32, "critic_steps": 2, "steps": 60}),
}


class Killed(BaseException):
    """Not an Exception: nothing is saved on the way out, as after kill -9."""


class KillsAt:
    """Lets a run live until it has reported so often."""

    def __init__(self, reports: int) -> None:
        self.reports, self.seen = reports, 0

    def __call__(self, clock, metrics):
        self.seen += 1
        if self.seen == self.reports:
            raise Killed


def train(name: str, folder: Path, reports: int = 0, compile: bool = False) -> int:
    """Trains, or goes on training; returns how often there was a report. After `reports` of them it is killed."""
    what, settings = RUNS[name]
    settings = {
        key: value() if value in (vector_environment, demonstrations) else value for key, value in settings.items()
    }
    objects = {key: settings[key] for key in ("env", "demos", "expert") if not isinstance(settings.get(key, ""), str)}
    kills = KillsAt(reports)
    rest: dict[str, Any] = {"callback": kills, "progress": False, "compile": compile}
    if (folder / "config.json").exists():
        agentlib.train(resume=folder, **objects, **rest)
    else:
        agentlib.train(what, out=folder, seed=3, **settings, **rest)
    return kills.seen


def what_is_left(folder: Path) -> dict[str, Any]:
    run = RunFolder(folder)
    checkpoint = load_state(run.checkpoints()[-1], run.segments)
    results = json.loads((folder / "results.json").read_text())
    kept = {name: results[name] for name in ("steps", "metrics", "measures")}
    best = folder / "best_agent.safetensors"
    best_agent = Agent.load(best).policy.state_dict() if best.exists() else {}
    products = [folder / f"{kind}.safetensors" for kind in ("agent", "model", "backbone")]
    product = [path.read_bytes() for path in products if path.exists()]
    assert product
    return {"checkpoint": checkpoint, "kept": kept, "best": dict(best_agent), "product": product}


QUICK = ("dqn",)


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in RUNS])
def test_a_killed_run_goes_on_as_if_nothing_had_been(name, tmp_path, monkeypatch):
    most = max(train(name, tmp_path / "whole") // 2, 2)
    # Killed in the middle again and again, with checkpoints at other moments each time.
    generator = np.random.default_rng(0)
    deaths = 0
    for life in range(30):
        monkeypatch.setattr(agentlib.runs.training, "CHECKPOINTS_PER_RUN", int(generator.integers(5, 60)))
        try:
            train(name, tmp_path / "killed", 0 if life == 29 else int(generator.integers(2, most + 1)))
            break
        except Killed:
            deaths += 1
    assert deaths >= 2
    whole, killed = what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "killed")
    assert difference(whole, killed) is None


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
@pytest.mark.parametrize(
    "name", ["dqn", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("options", "memory", "wgan", "maml"))]
)
def test_a_compiled_run_that_was_killed_goes_on_compiled(name, tmp_path):
    reports = train(name, tmp_path / "whole", compile=True)
    with pytest.raises(Killed):
        train(name, tmp_path / "killed", max(reports // 3, 2), compile=True)
    agentlib.train(resume=tmp_path / "killed", progress=False)  # the folder knows
    whole, killed = what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "killed")
    assert killed["checkpoint"]["extra"]["engine"]["compiled"]
    assert difference(whole, killed) is None


def test_a_run_that_is_killed_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch):
    train("dqn", tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train("dqn", tmp_path / "killed")
    assert (tmp_path / "killed" / "config.json").exists()
    train("dqn", tmp_path / "killed")
    assert difference(what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "killed")) is None


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path):
    train("stops by itself", tmp_path / "run")
    before = what_is_left(tmp_path / "run")
    assert before["checkpoint"]["extra"]["progress"]["waited"] == 2  # it stopped by itself
    train("stops by itself", tmp_path / "run")
    assert difference(before, what_is_left(tmp_path / "run")) is None


def test_what_a_killed_run_was_writing_is_deleted(tmp_path):
    with pytest.raises(Killed):
        train("dqn", tmp_path / "run", 20)
    halves = [tmp_path / "run" / "checkpoints" / ".step.01234abc.tmp", tmp_path / "run" / ".tmpAb3dE6"]
    for half in halves:
        half.write_bytes(b"half")
    train("dqn", tmp_path / "run")
    assert not any(half.exists() for half in halves)


@pytest.mark.slow
def test_other_means_are_told(tmp_path):
    with pytest.raises(Killed):
        train("dqn", tmp_path / "run", 20)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=f"threads was {threads}, is {threads + 1}"):
            train("dqn", tmp_path / "run")
    finally:
        torch.set_num_threads(threads)


# Replay memory in segments, and damaged files --------------------------------------------------------------------


@pytest.fixture
def in_segments(monkeypatch):
    """All rings are large ones."""
    monkeypatch.setattr(agentlib.runs.checkpoints, "SMALL", 0)


def segments_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "replay").glob("*")}


@pytest.mark.parametrize(
    "name", ["vector", *(pytest.param(one, marks=pytest.mark.slow) for one in ("options", "environments", "memory"))]
)
def test_replay_memory_in_segments_comes_back(name, tmp_path, monkeypatch, in_segments):
    monkeypatch.setattr(agentlib.runs.segments, "LARGE", 2000)  # several files each time
    train(name, tmp_path / "whole")
    seen: list[set[str]] = []
    for reports in (30, 20, 20, 0):
        try:
            train(name, tmp_path / "killed", reports)
        except Killed:
            seen.append(segments_of(tmp_path / "killed"))
    assert seen[0] & seen[1]  # files are kept from checkpoint to checkpoint
    assert seen[1] - seen[0]
    whole, killed = what_is_left(tmp_path / "whole"), what_is_left(tmp_path / "killed")
    for one in (whole, killed):
        rings = one["checkpoint"]["source"]["buffer._extra_state"]["rings"]
        assert rings
        for key, ring in rings.items():
            like = next(iter(load_file(ring.folder / ring.segments[0].file).values()))
            column = torch.zeros((len(ring.counts), ring.capacity, *like.shape[1:]), dtype=like.dtype)
            ring.copy_to(column)
            rings[key] = ring.counts, column
    assert difference(whole, killed) is None


@pytest.mark.slow
def test_a_checkpoint_costs_what_changed(tmp_path, monkeypatch, in_segments):
    """And segments that no checkpoint needs any more are deleted."""
    monkeypatch.setattr(agentlib.runs.training, "CHECKPOINTS_PER_RUN", 30)
    written: list[int] = []
    plain = Segments._write_file

    def counted(self, column, batch):
        written.append(sum(rows.end - rows.begin for rows in batch))
        return plain(self, column, batch)

    monkeypatch.setattr(Segments, "_write_file", counted)
    train("options", tmp_path / "run")
    frames = load_state(RunFolder(tmp_path / "run").checkpoints()[-1], Segments(tmp_path / "run" / "replay"))
    frames = frames["source"]["buffer._extra_state"]
    assert sum(written) == sum(frames["frames"])  # each frame once
    kept, capacity = sum(written[-len(segments_of(tmp_path / "run")) :]), frames["layout"]["frames"]
    assert capacity <= kept <= capacity + 3 * max(written)  # what two checkpoints need


@pytest.fixture(scope="module")
def whole_and_killed(tmp_path_factory):
    """A folder with a run that went to its end, and with one that was killed near it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(agentlib.runs.checkpoints, "SMALL", 0)
        reports = train("options", folder / "whole")
        with pytest.raises(Killed):
            train("options", folder / "killed", reports - 10)
    return folder


SELDOM = ("cut", "flip", "segment cut", "segment lost", "empty")


@pytest.mark.parametrize("harm", ["segment flip", *(pytest.param(one, marks=pytest.mark.slow) for one in SELDOM)])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(harm, tmp_path, whole_and_killed, in_segments):
    shutil.copytree(whole_and_killed, tmp_path, dirs_exist_ok=True)
    run = RunFolder(tmp_path / "killed")
    before, last = run.checkpoints()
    path = last
    if harm.startswith("segment"):
        only_of_the_last = set(agentlib.runs.checkpoints.segments_named(last))
        only_of_the_last -= set(agentlib.runs.checkpoints.segments_named(before))
        path = run.segments.folder / min(only_of_the_last)
    content = bytearray(path.read_bytes())
    if harm.endswith("lost"):
        path.unlink()
    else:
        content[len(content) * 3 // 4] ^= 4
        kept = {"cut": len(content) // 2, "empty": 0}.get(harm.removeprefix("segment "), len(content))
        path.write_bytes(content[:kept])
    with pytest.warns(UserWarning, match=f"{path.name} .*going on from the checkpoint before it"):
        train("options", tmp_path / "killed")
    for name in ("kept", "product"):
        assert difference(what_is_left(tmp_path / "whole")[name], what_is_left(tmp_path / "killed")[name]) is None


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    with pytest.raises(Killed):
        train("dqn", tmp_path / "run", 2)
    path = RunFolder(tmp_path / "run").checkpoints()[-1]
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    anywhere = [*range(200), *generator.integers(len(content), size=300).tolist()]
    places = [(position, int(generator.integers(8))) for position in anywhere]
    # Where a file of an earlier version would be another one: those had no checksum, or one that is of less.
    places += [(content.index(b'"version":"') + len(b'"version":"'), bit) for bit in range(8)]
    for position, bit in places:
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged|cut off|no state that agentlib saved|update agentlib"):
            load_state(path)
    path.write_bytes(content)
    load_state(path)


def test_when_all_checkpoints_are_damaged_it_says_so(tmp_path):
    with pytest.raises(Killed):
        train("dqn", tmp_path / "run", 30)
    for path in RunFolder(tmp_path / "run").checkpoints():
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="before it"), pytest.raises(DamagedFile, match="is cut off"):
        train("dqn", tmp_path / "run")
