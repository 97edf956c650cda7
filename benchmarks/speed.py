"""The rows of docs/benchmarks.md: what is timed, beside whom, and what was asked. `benchmarks/run.py` runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN as SB3DQN
from stable_baselines3.common.buffers import ReplayBuffer as SB3ReplayBuffer
from torch import nn

import agentlib
from agentlib import learners
from agentlib.backbones import MLP
from agentlib.core import Step
from agentlib.core.learner import cycle
from agentlib.core.recipe import Problem
from agentlib.engine.compiled import library
from agentlib.engine.traced import TracedCycle
from agentlib.envs.experts import expert_for
from agentlib.experience import ReplayBuffer
from agentlib.learners import BCConfig, DAggerConfig, DQNConfig, run
from agentlib.runs.plan import job_of
from benchmarks.control import ROWS as CONTROL
from benchmarks.paper_data import path
from benchmarks.peers import run_peer
from benchmarks.rows import MICRO, Row, Times, each, threads_of_all, through, timed
from benchmarks.settings import DAGGER, DEFAULTS, OTHERS, PONG, ZOO
from benchmarks.sizes import PEERS, UPDATES, WARM_UP, WORKS


def dqn_job(settings: Mapping[str, Any], env: Any, steps: int, seed: int, n_envs: int = 1) -> Any:
    config = DQNConfig(**{**settings, "net_arch": tuple(settings["net_arch"]) if "net_arch" in settings else None})
    return job_of(config, Problem(env=env, steps=steps, n_envs=n_envs, device="cpu", seed=seed))


# Whole runs ----------------------------------------------------------------------------------------------------------


def our_run(settings: Mapping[str, Any], steps: int, seed: int, compile: bool = True) -> tuple[float, float]:
    """Seconds of a whole run in this process, and the mean return of its last episodes."""

    def work() -> float:
        job = dqn_job(settings, "CartPole-v1", steps, seed)
        through(run(job.learner, job.source, job.length.updates, compile=compile))
        job.source.close()
        return float(np.mean(job.source.collector.returns))

    return timed(work)


def sb3_run(settings: Mapping[str, Any], steps: int, seed: int) -> tuple[float, float]:
    settings = dict(settings)
    kwargs = {"net_arch": settings.pop("net_arch")}

    def work() -> float:
        env = gymnasium.make("CartPole-v1")
        model = SB3DQN("MlpPolicy", env, policy_kwargs=kwargs, device="cpu", seed=seed, **settings)
        model.learn(steps)
        env.close()
        return float(np.mean([episode["r"] for episode in model.ep_info_buffer]))  # type: ignore[union-attr]

    return timed(work)


def dqn_warm(seed: int, steps: int = 100_000) -> Times:
    ours, our_return = our_run(DEFAULTS, steps, seed)
    theirs, their_return = sb3_run(DEFAULTS, steps, seed)
    limit = cartpole_limit(DEFAULTS, steps, batch_size=32, updates=steps // 4)
    return {"ours": ours, "theirs": theirs, "our_return": our_return, "their_return": their_return, "limit": limit}


def dqn_eager(seed: int, steps: int = 20_000) -> Times:
    return {"ours": our_run(DEFAULTS, steps, seed, compile=False)[0], "theirs": sb3_run(DEFAULTS, steps, seed)[0]}


def cold(
    side: str,
    settings: Mapping[str, Any],
    steps: int,
    seed: int,
    compile: bool | str = True,
    threads: int = 1,
    caches: str | None = None,
) -> Times:
    """Seconds from the start of a process to the agent; `caches` is a folder for all that is compiled."""
    given = {"settings": dict(settings), "steps": steps, "seed": seed, "compile": compile}
    command = [sys.executable, str(Path(__file__).parent / "cold.py"), side, json.dumps(given)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides load modules as installed ones are loaded
    if caches is not None:
        environment |= dict.fromkeys(("AGENTLIB_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TMPDIR"), caches)
    seconds, done = timed(partial(subprocess.run, command, check=True, capture_output=True, text=True, env=environment))
    return {"seconds": seconds, "return": json.loads(done.stdout.splitlines()[-1])["return"]}


def dqn_cold(settings: Mapping[str, Any], steps: int, seed: int, compile: bool = True) -> Times:
    ours, theirs = cold("ours", settings, steps, seed, compile), cold("sb3", settings, steps, seed)
    batch_size, each_step = settings.get("batch_size", 32), 2 if "gradient_steps" in settings else 4
    return {
        "ours": ours["seconds"],
        "theirs": theirs["seconds"],
        "our_return": ours["return"],
        "their_return": theirs["return"],
        "limit": cartpole_limit(settings, steps, batch_size, updates=steps // each_step),
    }


def first_run(seed: int) -> Times:
    """The first run on a machine: nothing is in any cache. As it comes: `compile="auto"`."""
    with tempfile.TemporaryDirectory() as caches:
        ours = cold("ours", ZOO, 20_000, seed, "auto", caches=caches)
    theirs = cold("sb3", ZOO, 20_000, seed)
    returns = {"our_return": ours["return"], "their_return": theirs["return"]}
    return {"ours": ours["seconds"], "theirs": theirs["seconds"], **returns}


def whole_run(pair: int, steps: int = 300) -> Times:
    """The whole of `agentlib train classifier` on MNIST, beside a plain loop that trains and tests as much."""
    environment, found = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, {}
    for side in ("ours", "plain"):
        command = [sys.executable, str(Path(__file__).parent / "whole.py"), side, path("mnist.npz"), str(steps)]
        run = partial(subprocess.run, command, check=True, capture_output=True, text=True, env=environment)
        found["theirs" if side == "plain" else side] = timed(run)[0]
    return found


def size(name: str, pair: int) -> Times:
    """Updates of a network of the size that people train, all sides with as many threads as there are cores."""
    threads = os.cpu_count() or 1
    given = {"seed": pair, "threads": threads, "updates": UPDATES, "warm_up": WARM_UP}
    found: Times = {}
    if name in PEERS:
        one = run_peer(*PEERS[name], given, threads)
        found |= {"peer": one["seconds"], "peer_bytes": one["bytes"]}
    for side in ("ours", "plain", "interpreted", "compiled"):
        command = [sys.executable, str(Path(__file__).parent / "sizes.py"), name, side, json.dumps(given)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        one = json.loads(done.stdout.splitlines()[-1])
        found |= {"theirs" if side == "plain" else side: one["seconds"], f"{side}_bytes": one["bytes"]}
    return found


@cache
def sbx_threads() -> dict[str, int]:
    """The number of threads at which each side is quickest."""
    sides = {"ours": lambda n: cold("ours", ZOO, 50_000, 0, threads=n), "sbx": lambda n: timed(partial(sbx, 0, n))}
    return {
        side: min((1, torch.multiprocessing.cpu_count()), key=lambda n: timed(partial(work, n))[0])
        for side, work in sides.items()
    }


def sbx(seed: int, threads: int) -> dict[str, Any]:
    return run_peer("sbx", "sbx_dqn.py", {"settings": ZOO, "steps": 50_000, "seed": seed}, threads)


def dqn_beside_sbx(seed: int) -> Times:
    threads = sbx_threads()
    ours = cold("ours", ZOO, 50_000, seed, threads=threads["ours"])
    theirs, result = timed(partial(sbx, seed, threads["sbx"]))
    returns = {"our_return": ours["return"], "their_return": result["return"]}
    return {"ours": ours["seconds"], "theirs": theirs, **returns, **{f"{k}_threads": v for k, v in threads.items()}}


def cartpole_limit(settings: Mapping[str, Any], steps: int, batch_size: int, updates: int) -> float:
    """Seconds of what cannot be avoided: the environment's steps, a forward for each, the updates' matrix products."""
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()

    sizes = (4, *settings["net_arch"], 2)
    layers = [(np.zeros((o, i), np.float32), np.zeros(i, np.float32)) for i, o in pairwise(sizes)]

    def forward() -> None:
        for weight, x in layers:
            weight @ x

    products: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, (i, o) in enumerate(pairwise(sizes)):
        x, weight, gradient = torch.zeros(batch_size, i), torch.zeros(o, i), torch.zeros(batch_size, o)
        products += [(x, weight.T), (x, weight.T), (gradient.T, x)]  # online, target, and the weight's gradient
        products += [(gradient, weight)] if number else []
    outs = [torch.empty(a.shape[0], b.shape[1]) for a, b in products]

    def update() -> None:
        for (a, b), out in zip(products, outs, strict=True):
            torch.mm(a, b, out=out)

    return steps * (each(step, 200) + each(forward, 500)) + updates * each(update, 200)


# One update, one action ----------------------------------------------------------------------------------------------


@cache
def update_alone_sides() -> tuple[Iterator[Any], SB3DQN]:
    settings = DEFAULTS | {"batch_size": 64, "learning_starts": 1_000}
    job = dqn_job(settings, "CartPole-v1", 1_000_000, 0)
    updates = run(job.learner, job.source, 1_000_000, compile=True)
    next(updates)
    job.source.updates_due = 10**9  # no more steps of the environment
    model = SB3DQN("MlpPolicy", gymnasium.make("CartPole-v1"), policy_kwargs=DEFAULTS, batch_size=64, device="cpu")
    model.learn(1_000)
    return updates, model


def update_alone(pair: int) -> Times:
    updates, model = update_alone_sides()
    limit = cartpole_limit(DEFAULTS, 0, 64, 1)
    return {
        "ours": each(lambda: next(updates), 200),
        "theirs": each(partial(model.train, gradient_steps=50, batch_size=64), 1) / 50,
        "limit": limit,
    }


@cache
def actors() -> tuple[agentlib.Agent, SB3DQN]:
    model = SB3DQN("MlpPolicy", gymnasium.make("CartPole-v1"), policy_kwargs=DEFAULTS, device="cpu", seed=0)
    return agentlib.Agent.from_sb3(model), model


def act(pair: int, n: int | None = None) -> Times:
    agent, model = actors()
    shape = (4,) if n is None else (n, 4)
    observation = np.random.default_rng(pair).normal(size=shape).astype(np.float32)
    assert np.array_equal(agent.act(observation), model.predict(observation, deterministic=True)[0])
    return {
        "ours": each(partial(agent.act, observation), 300),
        "theirs": each(partial(model.predict, observation, deterministic=True), 300),
    }


# Pixels --------------------------------------------------------------------------------------------------------------


def pong(pair: int, precision: str = "float32", threads: int = 1, steps: int = 1_600) -> Times:
    """From the first update on, each side in a process of its own: the loop, not the start."""
    given = {"settings": PONG, "steps": steps, "seed": pair, "precision": precision, "threads": threads}
    seconds = {}
    for side in ("ours", "sb3"):
        command = [sys.executable, str(Path(__file__).parent / "pong.py"), side, json.dumps(given)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds[side] = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    return {"ours": seconds["ours"], "theirs": seconds["sb3"]}


def pong_at_best_threads(pair: int) -> Times:
    """Each side with one thread and with as many as there are cores; its better time."""
    times = [pong(pair, threads=threads) for threads in (1, os.cpu_count() or 1)]
    return {side: min(one[side] for one in times) for side in ("ours", "theirs")}


def atari_bytes(pair: int) -> Times:
    """Bytes, not seconds; the whole by the formula, which is measured at a tenth."""
    space, actions = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6)
    measured = ReplayBuffer(space, actions, 100_000, frame_stack=4)
    held = sum(buffer.nbytes for buffer in measured.buffers())
    assert held == ReplayBuffer.forecast(space, actions, 100_000, frame_stack=4) or abs(held - measured.nbytes) < 1e4
    theirs = SB3ReplayBuffer(100_000, space, actions, device="cpu")
    arrays = (
        theirs.observations,
        theirs.next_observations,
        theirs.actions,
        theirs.rewards,
        theirs.dones,
        theirs.timeouts,
    )
    return {
        "ours": float(ReplayBuffer.forecast(space, actions, 1_000_000, frame_stack=4)),
        "theirs": 10.0 * sum(array.nbytes for array in arrays),
        "ours_at_100000": float(held),
        "theirs_at_100000": float(sum(array.nbytes for array in arrays)),
    }


# Replay --------------------------------------------------------------------------------------------------------------


class Nothing(learners.Learner):
    """Hands back what it was given, so that only sampling and priorities take time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def update(self, batch: Any) -> learners.Update:
        return learners.Update({"loss": batch.reward.mean()}, batch.reward.abs() + batch.observation[:, 0].abs())


@cache
def sampling(prioritized: bool, entries: int) -> Iterator[Any]:
    """A run that does no more than draw batches of 256 from so many transitions."""
    settings = DEFAULTS | {"batch_size": 256, "prioritized": prioritized, "buffer_size": entries}
    job = dqn_job(settings, "CartPole-v1", 10**9, 0)
    buffer = job.source.buffer
    assert len(buffer) == 0
    observations = np.random.default_rng(0).normal(size=(entries + 1, 1, 4)).astype(np.float32)
    no, action, reward = np.zeros(1, bool), np.zeros(1, np.int64), np.ones(1)
    job.source.collector.reset(0)
    for t in range(entries):
        buffer.add(action, reward, no, no, observations[t])
    buffer.flush()
    job.source.updates_due = 10**9
    updates = run(Nothing(), job.source, 10**9, compile=True)
    next(updates)
    return updates


def prioritized(pair: int) -> Times:
    sides = {"ours": sampling(True, 1_000_000), "theirs": sampling(False, 1_000_000)}
    return {name: each(partial(next, updates), 200) for name, updates in sides.items()}


# Imitation -----------------------------------------------------------------------------------------------------------


@cache
def bc_updates() -> tuple[Iterator[Any], str]:
    demos = agentlib.experience.record_episodes(expert_for("CartPole-v1"), "CartPole-v1", 10, seed=0)
    config = BCConfig(net_arch=(32, 32), batch_size=32, epochs=10_000)
    job = job_of(config, Problem(demos=demos, device="cpu"))
    updates = run(job.learner, job.source, 10**7, compile=True)
    next(updates)
    folder = tempfile.mkdtemp()
    observations = np.concatenate([np.asarray(episode.observations)[:-1] for episode in demos])
    np.save(f"{folder}/observations.npy", observations.astype(np.float32))
    np.save(f"{folder}/actions.npy", np.concatenate([np.asarray(episode.actions) for episode in demos]))
    return updates, folder


def bc(pair: int) -> Times:
    updates, folder = bc_updates()
    files = {"observations": f"{folder}/observations.npy", "actions": f"{folder}/actions.npy"}
    given = {**files, "batch_size": 32, "net_arch": [32, 32], "batches": 1_000}
    return {
        "ours": each(lambda: next(updates), 500),
        "theirs": run_peer("imitation", "imitation_bc.py", given)["seconds"],
    }


def dagger(seed: int, compile: bool = True) -> Times:
    config = DAggerConfig(
        rounds=DAGGER["rounds"],
        rollout_round_min_timesteps=DAGGER["round_steps"],
        rollout_round_min_episodes=DAGGER["round_episodes"],
        epochs=DAGGER["epochs"],
        batch_size=DAGGER["batch_size"],
        normalize=False,
    )
    network = MLP(4, (32, 32), activation="tanh")
    labels: dict[str, float] = {}
    quiet: Any = {"progress": False, "compile": compile, "callback": lambda clock, metrics: labels.update(metrics)}
    work = partial(agentlib.train, config, env="CartPole-v1", expert="scripted", backbone=network, seed=seed, **quiet)
    seconds, agent = timed(work)
    settings: Any = {**DAGGER, "env": "CartPole-v1", "seed": seed, "net_arch": [32, 32], "beta_rounds": 15}
    settings |= {"normalize": False, "evaluation_seeds": list(range(20))}
    theirs = run_peer("imitation", "imitation_dagger.py", settings)
    return {
        "ours": seconds,
        "theirs": theirs["seconds"],
        "our_return": agentlib.evaluate(agent, "CartPole-v1", episodes=20, seed=0).mean,  # type: ignore[arg-type]
        "their_return": float(np.mean(theirs["returns"])),
        "our_labels": labels["rollout/labels"],
        "their_labels": float(theirs["labels"]),
    }


# All learners --------------------------------------------------------------------------------------------------------


def usual(learner: learners.Learner) -> learners.Learner:
    """The learner with the steps that one usually writes: `backward()`, clipping, fused Adam of torch.optim."""

    def forward(step: Step, optimizer: torch.optim.Optimizer, loss: torch.Tensor, clock: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(step.parameter_list, step.max_grad_norm or 1e9)
        optimizer.step()
        return norm.detach()

    for step in [module for module in learner.modules() if isinstance(module, Step)]:
        step.forward = partial(forward, step, torch.optim.Adam(step.parameter_list, lr=1e-4, fused=True))  # type: ignore[method-assign]
    return learner


def learner_update(name: str, pair: int) -> Times:
    sides: dict[str, Callable[[], Any]] = {}
    for side in ("ours", "theirs"):
        learner, source = getattr(learners, name).tiny(seed=pair)
        through(run(learner, source, 2, compile=False))
        call: Any = TracedCycle(library) if side == "ours" else cycle
        learner = learner if side == "ours" else usual(learner)
        source.planned_updates = 10**9
        source.advance()
        with torch.random.fork_rng(devices=[]):
            call(learner, source)
        sides[side] = partial(call, learner, source)
    with torch.random.fork_rng(devices=[]):
        return {side: each(work, 20) for side, work in sides.items()}


CARTPOLE = "DQN, CartPole-v1"
ROWS = [
    Row(
        "dqn_warm",
        f"{CARTPOLE}, SB3's defaults, 64-64, 100,000 steps, warm",
        "SB3",
        dqn_warm,
        9,
        12,
        steps=lambda: (our_run(DEFAULTS, 100_000, 0), sb3_run(DEFAULTS, 2_000, 0)),
    ),
    Row("dqn_eager", f"{CARTPOLE}, the same, 20,000 steps, `compile=False`", "SB3", dqn_eager, 2, 3),
    Row(
        "first_run",
        f"{CARTPOLE}, the zoo's settings, 20,000 steps, the first run on a machine: nothing in any cache",
        "SB3",
        first_run,
        1.5,
        3,
    ),
    Row(
        "dqn_cold",
        f"{CARTPOLE}, the same, 20,000 steps, from the start of the process, the compiler's cache filled",
        "SB3",
        partial(dqn_cold, DEFAULTS, 20_000),
        2,
        4,
        steps=lambda: cold("ours", DEFAULTS, 20_000, 0),
    ),
    Row(
        "dqn_zoo_cold",
        f"{CARTPOLE}, the zoo's settings, 256-256, 50,000 steps, from the start of the process, cache filled",
        "SB3",
        partial(dqn_cold, ZOO, 50_000),
        4.7,
        6,
        steps=lambda: cold("ours", ZOO, 50_000, 0),
    ),
    Row("dqn_sbx", f"{CARTPOLE}, the same, each at its best thread count", "SBX 0.28", dqn_beside_sbx, 1, 1.5),
    Row("update", "one update of DQN, 64-64, batch 64", "SB3", update_alone, 7, 15, unit=MICRO),
    Row("pong", "DQN, ALE/Pong-v5, one environment, batch 32, the loop", "SB3", pong, 2, 2.5, pairs=9),
    Row("pong_bfloat16", 'the same, `precision="bfloat16"`', "SB3", partial(pong, precision="bfloat16"), 3, 4, pairs=9),
    Row("pong_threads", "float32, each at its best thread count", "SB3", pong_at_best_threads, 2, 2.5),
    *CONTROL,
    Row("bc", "one update of BC, 32-32, batch 32", "imitation 1.0.1", bc, 10, 25, unit=MICRO),
    Row(
        "dagger",
        "DAgger, CartPole-v1, 5 rounds, 4 epochs each, warm",
        "imitation 1.0.1",
        dagger,
        6,
        12,
        steps=lambda: dagger(0),
    ),
    Row("act", "one action, MLP", "SB3's predict", act, 8, 12, unit=MICRO),
    Row("act_256", "256 actions, MLP", "SB3's predict", partial(act, n=256), 2, 3, unit=MICRO),
    Row("atari_bytes", "bytes of a million Atari transitions", "SB3", atari_bytes, 7, 8, unit=("GB", 1e-9), pairs=1),
    Row(
        "prioritized",
        "prioritized sampling and priorities, 1,000,000 entries, batch 256",
        "uniform",
        prioritized,
        4,
        2,
        unit=MICRO,
        inverse=True,
    ),
    Row(
        "whole_mnist",
        "classifier, MNIST, 300 updates, the whole program: loading, training, judging, pictures, the run's folder",
        "plain PyTorch: loading, training, test images by 1,000",
        whole_run,
        1.2,
        inverse=True,
        pairs=3,
    ),
    *(
        Row(f"size_{name}", f"{work}, one update", "plain PyTorch", partial(size, name), 1, 1.3, pairs=2)
        for name, (_, work) in WORKS.items()
    ),
    *(
        Row(
            f"update_{name}",
            f"one update of {name}, the tiny network of `tiny()`",
            "our own learner, eager",
            partial(learner_update, name),
            1.3,
            2.5,
            unit=MICRO,
        )
        for name in OTHERS
    ),
]


FIRST = ("first_run", "dqn_zoo_cold", "act", "pong", "dagger", "size_resnet18")
"""The rows that most users care about: the first run, the second, one action, images, imitation, a large network."""


NEEDS = {"whole_mnist": ("mnist.npz",)}
"""Rows that need data of papers."""


def measured(row: Row, pairs: int | None = None) -> dict[str, list[float]]:
    """All pairs of a row."""
    with threads_of_all(1):
        if row.steps is not None:
            row.steps()
        found = [row.measure(pair) for pair in range(pairs or row.pairs)]
    return {name: [pair[name] for pair in found] for name in found[0]}
