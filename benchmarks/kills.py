"""Kills training runs at random moments, resumes them, and compares: `make test-long`.

    python benchmarks/kills.py --kills 200
    python benchmarks/kills.py --kills 200 --compiled

Each run trains in a process of its own, which is killed with SIGKILL at a random moment; what is left in its folder is
looked at; the run is resumed, and killed again. At its end all that its last checkpoint holds (networks, optimizers,
replay memory, generators), the agent's file and the results must equal those of a run that was never stopped, bit for
bit. Checkpoints are written several times as often as usual, so that kills strike while files are written, too.
A process forks from one that has imported everything, so that a life takes seconds.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # what forks must not have threads
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import sklearn.datasets  # noqa: F401 - so that no child has to
import torch
import torch.utils.tensorboard
from safetensors.torch import load_file

import agentlib
import agentlib.runs.checkpoints
import agentlib.runs.training
from agentlib.catalog import recipe_of
from agentlib.core.trees import copied, difference
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import record_episodes
from agentlib.plots.report import provenance
from agentlib.runs.checkpoints import load_state
from agentlib.runs.folder import RunFolder
from agentlib.runs.models import load_model
from agentlib.runs.segments import StoredRing

RESULT = ROOT / "docs" / "guarantees" / "kills.json"
SETTINGS = {"net_arch": (32,), "learning_starts": 200, "batch_size": 32, "train_freq": 4, "gradient_steps": 1}
CONTROL: dict[str, Any] = {"env": "CartPole-v1", "steps": 6000, "eval_every": 1500, **SETTINGS}
MEMORY: dict[str, Any] = {"env": "agentlib/CartPoleNoVel-v0", "steps": 2500, "net_arch": (16,), "learning_starts": 200}
MEMORY |= {"batch_size": 8, "burn_in": 4, "sequence_length": 10, "sequence_period": 5}
DAGGER: dict[str, Any] = {"env": "CartPole-v1", "expert": cartpole_expert, "n_envs": 2, "beta": 0.5, "rounds": 6}
RUNS: dict[str, dict[str, Any]] = {
    "dqn, prioritized": {"what": "dqn", "prioritized": True, "buffer_size": 2000, **CONTROL},
    "dqn, n-step": {"what": "dqn", "n_steps": 3, "double": True, "normalize": True, "n_envs": 3, **CONTROL},
    "dqn, recurrent": {"what": "recurrent_dqn", **MEMORY},
    "bc": {"what": "bc", "demos": None, "net_arch": (32,), "validation": 0.2, "patience": 100, "steps": 4000},
    "dagger": {"what": "dagger", "rollout_round_min_timesteps": 300, "net_arch": (32,), **DAGGER},
    "vae": {"what": "vae", "data": "digits", "steps": 400},
    "maml": {"what": "maml", "data": "sinusoids", "steps": 300},
}
PRESET: dict[str, Any] = {"env": "CartPole-v1", "steps": 6000, "eval_every": 1500}
COMPILED: dict[str, dict[str, Any]] = {
    "dqn, preset": {"what": "dqn", **PRESET},
    "dqn, preset, prioritized": {"what": "dqn", "prioritized": True, "buffer_size": 2000, "double": True, **PRESET},
    "sac, preset": {"what": "sac", "env": "Pendulum-v1", "steps": 900, "learning_starts": 200},
    "td3, preset": {"what": "td3", "env": "Pendulum-v1", "steps": 900, "learning_starts": 200},
    "ppo, 256": {"what": "ppo", "net_arch": (256, 256), **PRESET},
    "dqn, recurrent, 128": {"what": "recurrent_dqn", **MEMORY, "net_arch": (128,)},
    "bc, 256": {"what": "bc", "demos": None, "net_arch": (256, 256), "validation": 0.2, "steps": 3000},
    "vae, its own size": {"what": "vae", "data": "digits", "steps": 400},
}
"""Of `--compiled`: networks of the size of the presets, whose optimizer has several groups of parameters."""
KILLS_PER_RUN = 4


def train(settings: dict[str, Any], folder: Path) -> None:
    """The run from its start, or from where it was killed."""
    settings = dict(settings)
    if "demos" in settings:
        settings["demos"] = record_episodes(cartpole_expert, "CartPole-v1", 10, noise=0.5)
    common: dict[str, Any] = {"progress": False, "compile": settings.pop("compile", False)}
    if (folder / "config.json").exists():
        objects = {name: settings[name] for name in ("demos", "expert") if name in settings}
        agentlib.train(resume=folder, **objects, **common)
    else:
        agentlib.train(settings.pop("what"), out=folder, seed=1, **settings, **common)


def life(settings: dict[str, Any], folder: Path, seconds: float | None) -> str:
    """A process that trains, for so many seconds if it takes longer: "ended", "killed", or what went wrong."""
    errors = folder.with_suffix(".errors")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(errors, "w") as stream:
                os.dup2(stream.fileno(), 2)
            warnings.simplefilter("error")  # "could not be brought back", "is damaged": all that must not be
            agentlib.runs.training.CHECKPOINTS_PER_RUN = 40
            agentlib.runs.checkpoints.SMALL = 1 << 14
            train(settings, folder)
            code = 0
        except BaseException as error:
            sys.stderr.write(repr(error))
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.002)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended[1]):
        return "killed"
    return "ended" if ended[1] == 0 else f"failed: {errors.read_text()[-500:]}"


def what_is_left(folder: Path) -> dict[str, Any]:
    """All by which two runs are compared."""
    run = RunFolder(folder)
    state = load_state(run.checkpoints()[-1], run.segments)
    rings = state["source"].get("buffer._extra_state", {}).get("rings", {})
    for name, ring in rings.items():
        rings[name] = rows_of(ring)
    results = json.loads((folder / "results.json").read_text())
    files = [folder / f"{name}.safetensors" for name in ("agent", "best_agent", "backbone")]
    return {
        "checkpoint": copied(state),
        "results": {name: results[name] for name in ("steps", "metrics", "measures")},
        "files": {path.name: path.read_bytes() for path in files if path.exists()},
    }


def rows_of(ring: Any) -> Any:
    """The rows of a ring, wherever they are stored."""
    if not isinstance(ring, StoredRing) or not ring.segments:
        return ring
    like = next(iter(load_file(ring.folder / ring.segments[0].file).values()))
    column = torch.zeros((len(ring.counts), ring.capacity, *like.shape[1:]), dtype=like.dtype)
    ring.copy_to(column)
    return ring.counts, column


def damaged(folder: Path) -> list[str]:
    """Files of a killed run that cannot be read."""
    found = []
    for path in [*(folder / "checkpoints").glob("*.safetensors"), *folder.glob("*.safetensors")]:
        try:
            if path.parent != folder:
                load_state(path, RunFolder(folder).segments)
            else:
                read = {"model": load_model, "backbone": agentlib.backbones.load_backbone}
                read.get(path.stem, agentlib.Agent.load)(path)
        except Exception as error:
            found.append(f"{path.name}: {error!r}")
    if (folder / "config.json").exists():
        json.loads((folder / "config.json").read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", help="names, separated by semicolons; all of them by default")
    parser.add_argument("--compiled", action="store_true", help="compiled runs, with networks of the presets' sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the result is written, in place of docs/guarantees/kills.json")
    arguments = parser.parse_args()
    runs = {name: {**run, "compile": True} for name, run in COMPILED.items()} if arguments.compiled else RUNS
    names = arguments.runs.split(";") if arguments.runs else list(runs)
    for name in names:
        recipe_of(runs[name]["what"])  # imports the learner, so that no child has to
    generator = np.random.default_rng(arguments.seed)
    counts = {name: {"runs": 0, "kills": 0, "before_the_first_checkpoint": 0, "equal": 0} for name in names}
    troubles: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        whole, seconds = {}, {}
        for name in names:
            began = time.monotonic()
            outcome = life(runs[name], Path(place, f"{name} whole"), None)
            if outcome != "ended":
                raise RuntimeError(f"{name}: {outcome}")
            whole[name], seconds[name] = what_is_left(Path(place, f"{name} whole")), time.monotonic() - began
        number = 0
        while sum(count["kills"] for count in counts.values()) < arguments.kills:
            name = names[number % len(names)]
            folder, count = Path(place, f"run {number}"), counts[name]
            number, kills, outcome = number + 1, 0, ""
            left = arguments.kills - sum(one["kills"] for one in counts.values())
            while kills < min(KILLS_PER_RUN, left) and outcome in ("", "killed"):
                began = time.monotonic()
                outcome = life(runs[name], folder, float(generator.uniform(0.0, seconds[name])))
                if outcome == "ended" and not kills:
                    seconds[name] = time.monotonic() - began  # the machine is faster now than it was
                if outcome == "killed":
                    kills += 1
                    count["before_the_first_checkpoint"] += not RunFolder(folder).checkpoints()
                    troubles += [f"{name}, run {number}: {one}" for one in damaged(folder)]
            if outcome == "killed":
                outcome = life(runs[name], folder, None)
            equal = "it failed" if outcome != "ended" else difference(whole[name], what_is_left(folder))
            if outcome != "ended" or equal is not None:
                troubles.append(f"{name}, run {number}, after {kills} kills: {equal} differs; {outcome}")
            else:
                count["equal"] += kills
            count["runs"] += 1
            count["kills"] += kills
            print(f"{name}: {kills} kills, {'equal' if equal is None else troubles[-1]}", flush=True)
    total = {key: sum(count[key] for count in counts.values()) for key in ("runs", "kills", "equal")}
    command = f"python benchmarks/kills.py --kills {arguments.kills}{' --compiled' * arguments.compiled}"
    result = {"command": command, **total, "troubles": troubles}
    out = arguments.out or RESULT.with_stem("kills_compiled" if arguments.compiled else "kills")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**result, "by_run": counts, **provenance()}, indent=1, default=str) + "\n")
    print(f"{total['kills']} kills, {total['equal']} resumed bit for bit, {len(troubles)} troubles")
    return 1 if troubles or total["equal"] < total["kills"] else 0


if __name__ == "__main__":
    sys.exit(main())
