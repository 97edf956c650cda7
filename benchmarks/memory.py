"""The most memory of a process on each side of the rows of docs/benchmarks.md:

    python benchmarks/memory.py [NAME ...]

Each side does the row's work in a process of its own, and imports only what it needs; ours does it twice, with an empty
cache of compiled updates ("compiling") and with a filled one. The system says how much of the main memory that process,
or the largest that it started (a compiler, the peer's interpreter), had at most. Where the peer is plain PyTorch it is
the same learner with `backward()` and PyTorch's fused Adam. The rows of sizes hold theirs themselves. What it prints is
kept in docs/benchmarks/memory.json, and `benchmarks/run.py --page` shows it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.peers import run_peer
from benchmarks.settings import DAGGER, DEFAULTS, OTHERS, PONG, ZOO

KEPT = Path(__file__).parent.parent / "docs" / "benchmarks" / "memory.json"


def ours(what: str, env: str, steps: int, compile: bool | str = True, precision: str = "float32", **early: Any) -> None:
    from agentlib.core.recipe import Problem
    from agentlib.engine import run
    from agentlib.runs.plan import job_of

    job = job_of(what, Problem(env=env, steps=steps, device="cpu", seed=0), **early)
    for _ in run(job.learner, job.source, job.length.updates, compile=compile, precision=precision):  # type: ignore[arg-type]
        pass
    job.source.close()


def sb3(what: str, env: str, steps: int, **early: Any) -> None:
    """Stable-Baselines3's algorithm with the settings that `what` selects there."""
    from agentlib.core.recipe import Problem
    from agentlib.runs.plan import plan
    from benchmarks.control import sb3_learns

    sb3_learns(plan(what, Problem(env=env, steps=steps, device="cpu", seed=0), early), env, steps, seed=0)


def script(file: str, side: str, **given: Any) -> None:
    path = Path(__file__).parent / file
    subprocess.run([sys.executable, path, side, json.dumps(given)], check=True, stdout=subprocess.DEVNULL)


def act(side: str) -> None:
    """Actions of a network of 64-64; ours by an agent that was read from a file of Stable-Baselines3."""
    import gymnasium
    import numpy as np

    observation = np.zeros(4, np.float32)
    if side == "sb3":
        from stable_baselines3 import DQN

        model = DQN("MlpPolicy", gymnasium.make("CartPole-v1"), policy_kwargs={"net_arch": [64, 64]}, device="cpu")
        for _ in range(1_000):
            model.predict(observation, deterministic=True)
        return
    import agentlib

    agent = agentlib.train("dqn", env="CartPole-v1", steps=2_000, net_arch=(64, 64), progress=False)
    for _ in range(1_000):
        agent.act(observation)  # type: ignore[union-attr]


def imitation(what: str, side: str) -> None:
    import numpy as np

    import agentlib
    from agentlib.envs.experts import expert_for
    from agentlib.experience import record_episodes

    if what == "dagger":
        if side == "ours":
            given: Any = {name: DAGGER[name] for name in ("rounds", "epochs", "batch_size")}
            given |= {"rollout_round_min_timesteps": DAGGER["round_steps"], "normalize": False, "net_arch": (32, 32)}
            given["rollout_round_min_episodes"] = DAGGER["round_episodes"]
            agentlib.train("dagger", env="CartPole-v1", expert="scripted", progress=False, **given)
        else:
            given = DAGGER | {"env": "CartPole-v1", "seed": 0, "net_arch": [32, 32], "beta_rounds": 15}
            run_peer("imitation", "imitation_dagger.py", given | {"normalize": False, "evaluation_seeds": [0]})
        return
    demos = record_episodes(expert_for("CartPole-v1"), "CartPole-v1", 10, seed=0)
    if side == "ours":
        agentlib.train("bc", demos=demos, net_arch=(32, 32), batch_size=32, steps=1_000, progress=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {"observations": f"{folder}/observations.npy", "actions": f"{folder}/actions.npy"}
        np.save(files["observations"], np.concatenate([episode.observations[:-1] for episode in demos]))
        np.save(files["actions"], np.concatenate([episode.actions for episode in demos]))
        run_peer("imitation", "imitation_bc.py", {**files, "batch_size": 32, "net_arch": [32, 32], "batches": 1_000})


def updates(name: str, side: str) -> None:
    """Updates of a learner's tiny networks."""
    from agentlib import learners
    from agentlib.engine import run
    from benchmarks.sizes import usual

    learner, source = getattr(learners, name).tiny(seed=0)
    if side == "plain":
        usual(learner)
    for _ in run(learner, source, 20, compile=True if side == "ours" else "eager"):
        pass


def both(what: str, env: str, steps: int, **early: Any) -> dict[str, Callable[[], None]]:
    return {"ours": partial(ours, what, env, steps, **early), "theirs": partial(sb3, what, env, steps, **early)}


def scripts(file: str, **given: Any) -> dict[str, Callable[[], None]]:
    return {side: partial(script, file, name, **given) for side, name in (("ours", "ours"), ("theirs", "sb3"))}


SIDES: dict[str, dict[str, Callable[[], None]]] = {
    "first_run": scripts("cold.py", settings=ZOO, steps=20_000, seed=0, compile="auto"),
    "dqn_warm": scripts("cold.py", settings=DEFAULTS, steps=100_000, seed=0, compile=True),
    "dqn_eager": scripts("cold.py", settings=DEFAULTS, steps=20_000, seed=0, compile=False),
    "dqn_zoo_cold": scripts("cold.py", settings=ZOO, steps=50_000, seed=0, compile=True),
    "dqn_sbx": {
        "ours": partial(script, "cold.py", "ours", settings=ZOO, steps=50_000, seed=0, compile=True),
        "theirs": partial(run_peer, "sbx", "sbx_dqn.py", {"settings": ZOO, "steps": 50_000, "seed": 0}),
    },
    "pong": scripts("pong.py", settings=PONG, steps=1_600, seed=0, precision="float32", threads=1),
    "sac": both("sac", "Pendulum-v1", 3_000, learning_starts=500),
    "td3": both("td3", "Pendulum-v1", 3_000, learning_starts=500),
    "ppo": both("ppo", "CartPole-v1", 100_000),
    "bc": {side: partial(imitation, "bc", side) for side in ("ours", "theirs")},
    "dagger": {side: partial(imitation, "dagger", side) for side in ("ours", "theirs")},
    "act": {"ours": partial(act, "ours"), "theirs": partial(act, "sb3")},
    **{
        f"update_{name}": {"ours": partial(updates, name, "ours"), "theirs": partial(updates, name, "plain")}
        for name in OTHERS
    },
}


def peak(name: str, side: str, caches: str) -> int:
    """Bytes, at most, of the largest process; `caches` is a folder for all that is compiled."""
    environment = os.environ | dict.fromkeys(("AGENTLIB_CACHE", "TORCHINDUCTOR_CACHE_DIR"), caches)
    process = subprocess.Popen([sys.executable, __file__, "--side", name, side], env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name}, {side}: exit status {process.returncode}")
    return used.ru_maxrss * 1024


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        SIDES[sys.argv[2]][sys.argv[3]]()
        return 0
    unknown = [name for name in sys.argv[1:] if name not in SIDES]
    if unknown:
        print(f"no row called {', '.join(unknown)}; there are {', '.join(SIDES)}", file=sys.stderr)
        return 2
    found = json.loads(KEPT.read_text())["bytes"] if KEPT.is_file() else {}
    for name in sys.argv[1:] or SIDES:
        with tempfile.TemporaryDirectory() as caches:
            sides = {"compiling": "ours", "ours": "ours", "theirs": "theirs"}
            found[name] = {shown: peak(name, side, caches) for shown, side in sides.items()}
        print(name, {side: f"{count / 1e6:,.0f} MB" for side, count in found[name].items()}, flush=True)
    from agentlib.plots.report import provenance  # not before: a process begins with the peak of the one that starts it
    from benchmarks.experiments import commit

    KEPT.write_text(json.dumps({"bytes": found, "commit": commit(), **provenance()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
