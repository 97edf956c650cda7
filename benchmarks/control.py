"""Rows of PPO, SAC and TD3: beside Stable-Baselines3, SBX and CleanRL, and with many environments side by side.

    python benchmarks/control.py '{"what": "sac", "env": "Pendulum-v1", "steps": 3000, "warm": 600, ...}'

prints one JSON object with the seconds of our loop in a process of its own, from step `warm` on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gymnasium
import numpy as np

from agentlib.core import Linear
from agentlib.core.recipe import Problem
from agentlib.core.schedules import schedule_to_text
from agentlib.engine.loop import Precision
from agentlib.learners import PPOConfig, run
from agentlib.runs.plan import Plan, job_of, plan
from agentlib.sb3.training import algorithm_of, sb3_arguments, train_sb3, vector_of
from benchmarks.peers import run_peer
from benchmarks.rows import MICRO, Row, Times, each, threads_of_all, through, timed

# Whole runs ----------------------------------------------------------------------------------------------------------


def arguments_for(planned: Plan, env: str) -> dict[str, Any]:
    """SB3's arguments for our settings."""
    given = (planned.config, algorithm_of(planned.recipe), gymnasium.make(env).observation_space)
    return sb3_arguments(*given, built_in=planned.recipe.sb3.built_in, n_envs=planned.n_envs)  # type: ignore[union-attr]


def sb3_learns(planned: Plan, env: str, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of a whole run of SB3, and the mean return of its last episodes."""
    from stable_baselines3.common.monitor import Monitor

    envs = vector_of(lambda: Monitor(gymnasium.make(env)), planned.n_envs, planned.config)
    given = (algorithm_of(planned.recipe), arguments_for(planned, env), envs)
    seconds, model = timed(lambda: train_sb3(*given, steps=steps, seed=seed, device="cpu", progress=False))
    envs.close()
    return seconds, float(np.mean([episode["r"] for episode in model.ep_info_buffer]))


def beside_sb3(what: str, env: str, steps: int, seed: int, precision: Precision = "float32", **early: Any) -> Times:
    """A whole run compiled, both sides with the settings that `what` selects there, but for those that are given."""
    problem = Problem(env=env, steps=steps, device="cpu", seed=seed)

    def ours() -> float:
        job = job_of(what, problem, **early)
        through(run(job.learner, job.source, job.length.updates, compile=True, precision=precision))
        job.source.close()
        return float(job.source.measures()["rollout/ep_rew_mean"])

    seconds, our_return = timed(ours)
    theirs, their_return = sb3_learns(plan(what, problem, early), env, steps, seed)
    return {"ours": seconds, "theirs": theirs, "our_return": our_return, "their_return": their_return}


def compiled(what: str, env: str, steps: int, precision: Precision = "float32", **early: Any) -> None:
    """The first updates of the same run, so that all is compiled: its memory of transitions is as large."""
    job = job_of(what, Problem(env=env, steps=steps, device="cpu"), **early)
    through(islice(run(job.learner, job.source, job.length.updates, compile=True, precision=precision), 10))
    job.source.close()


# Beside SBX ----------------------------------------------------------------------------------------------------------


def loop(given: dict[str, Any]) -> float:
    """Seconds of our loop from step `warm` on."""
    problem = Problem(env=given["env"], steps=given["steps"], device="cpu", seed=given["seed"])
    job, started = job_of(given["what"], problem, **given["early"]), None
    for clock, _ in run(job.learner, job.source, job.length.updates, compile=True):
        if started is None and clock.steps >= given["warm"]:
            started = time.perf_counter()
    assert started is not None
    seconds = time.perf_counter() - started
    job.source.close()
    return seconds


def our_loop(given: dict[str, Any], threads: int) -> float:
    command = [sys.executable, __file__, json.dumps(given | {"threads": threads})]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def sbx_loop(given: dict[str, Any], threads: int) -> float:
    """The same of SBX, with our settings."""
    planned = plan(given["what"], Problem(env=given["env"], steps=given["steps"]), given["early"])
    arguments = arguments_for(planned, given["env"])
    texts = {name: schedule_to_text(getattr(planned.config, name)) for name in arguments if callable(arguments[name])}
    settings = given | {"settings": arguments | texts, "n_envs": planned.n_envs}
    return float(run_peer("sbx", "sbx_control.py", settings, threads)["seconds"])


@cache
def best_threads(side: Callable[[dict[str, Any], int], float], given: str) -> int:
    """The number of threads at which a side is quickest."""
    return min((1, os.cpu_count() or 1), key=partial(side, json.loads(given)))


def beside_sbx(what: str, env: str, steps: int, warm: int, seed: int, **early: Any) -> Times:
    """The loops of both sides, each in a process of its own and at its best thread count, once all is compiled."""
    given = {"what": what, "env": env, "steps": steps, "warm": warm, "early": early}
    sides = {"ours": our_loop, "theirs": sbx_loop}
    threads = {name: best_threads(side, json.dumps(given | {"seed": 0})) for name, side in sides.items()}
    times = {name: side(given | {"seed": seed}, threads[name]) for name, side in sides.items()}
    return times | {f"{name}_threads": float(count) for name, count in threads.items()}


# Many environments ---------------------------------------------------------------------------------------------------

ROLLOUTS = {64: 30, 256: 12, 1_024: 6}
"""Rollouts of a run, by the number of environments."""
LENGTH, MINIBATCHES, EPOCHS = 32, 4, 4


def config_for(n_envs: int) -> PPOConfig:
    """The numbers of CleanRL's script, but for the shorter rollouts and values that are not clipped."""
    return PPOConfig(
        learning_rate=Linear(2.5e-4, 0.0),
        n_steps=LENGTH,
        batch_size=n_envs * LENGTH // MINIBATCHES,
        n_epochs=EPOCHS,
        ent_coef=0.01,
    )


def our_many(envs: Any, seed: int, rollouts: int | None = None) -> float:
    """Seconds per environment step of PPO in a vector environment."""
    n_envs = envs.num_envs
    steps = n_envs * LENGTH * (rollouts or ROLLOUTS[n_envs])
    job = job_of(config_for(n_envs), Problem(env=envs, steps=steps, device="cpu", seed=seed))
    seconds, _ = timed(lambda: through(run(job.learner, job.source, job.length.updates, compile=True)))
    return seconds / job.source.collector.steps


def arrays_of(n_envs: int) -> Any:
    """CartPole as one program over arrays."""
    return gymnasium.make_vec("CartPole-v1", num_envs=n_envs, vectorization_mode="vector_entry_point")


def copies_of(n_envs: int) -> Any:
    """CartPole as often as it is asked for, one after the other."""
    return gymnasium.make_vec("CartPole-v1", num_envs=n_envs, vectorization_mode="sync")


def sb3_many(n_envs: int, seed: int) -> float:
    steps = n_envs * LENGTH * ROLLOUTS[n_envs]
    planned = plan(config_for(n_envs), Problem(env="CartPole-v1", steps=steps, n_envs=n_envs), {})
    return sb3_learns(planned, "CartPole-v1", steps, seed)[0] / steps


def cleanrl_many(n_envs: int, seed: int) -> float:
    given = {
        "num-envs": n_envs,
        "num-steps": LENGTH,
        "num-minibatches": MINIBATCHES,
        "update-epochs": EPOCHS,
        "total-timesteps": n_envs * LENGTH * ROLLOUTS[n_envs],
        "clip-vloss": False,
        "seed": seed + 1,
    }
    return float(run_peer("cleanrl", "cleanrl_ppo.py", given)["seconds"])


def many(make: Callable[[int], Any], theirs: Callable[[int, int], float], n_envs: int, pair: int) -> Times:
    """Seconds per environment step with so many environments."""
    envs = make(n_envs)
    ours = our_many(envs, pair)
    envs.close()
    return {"ours": ours, "theirs": theirs(n_envs, pair)}


def envpool(n_envs: int, pair: int) -> Times:
    """The same with EnvPool's environments on our side, which are in an environment of their own."""
    ours = run_peer("envpool", "envpool_ppo.py", {"n_envs": n_envs, "seed": pair})["seconds"]
    return {"ours": ours, "theirs": sb3_many(n_envs, pair)}


# One action ----------------------------------------------------------------------------------------------------------


@cache
def actors(name: str, env: str) -> tuple[Any, Any]:
    import stable_baselines3

    from agentlib import Agent

    model = getattr(stable_baselines3, name)("MlpPolicy", gymnasium.make(env), device="cpu", seed=0)
    return Agent.from_sb3(model), model


def act(name: str, env: str, pair: int) -> Times:
    agent, model = actors(name, env)
    shape = agent.observation_space.shape
    observation = np.random.default_rng(pair).uniform(-1.0, 1.0, shape).astype(np.float32)
    ours, theirs = partial(agent.act, observation), partial(model.predict, observation, deterministic=True)
    np.testing.assert_allclose(ours(), theirs()[0], atol=1e-5)
    return {"ours": each(ours, 300), "theirs": each(theirs, 300)}


def of_many(n_envs: int) -> list[Row]:
    """The rows of one number of environments."""
    ready = partial(our_many, seed=0, rollouts=1)
    work, arrays = f"PPO, CartPole-v1, {n_envs:,} environments, a step", partial(many, arrays_of)
    rows = {
        "": (f"{work}; Gymnasium's CartPoleVectorEnv", "SB3, DummyVecEnv", partial(arrays, sb3_many, n_envs)),
        "_cleanrl": ("the same", "CleanRL 1.2.0, ppo.py", partial(arrays, cleanrl_many, n_envs)),
        "_sync": (f"{work}; SyncVectorEnv", "SB3, DummyVecEnv", partial(many, copies_of, sb3_many, n_envs)),
        "_envpool": (f"{work}; EnvPool 1.2.5", "SB3, DummyVecEnv", partial(envpool, n_envs)),
    }
    return [
        Row(
            f"ppo_{n_envs}{name}",
            *row,
            1,  # no more was asked
            unit=MICRO,
            pairs=3,
            steps=lambda: ready(arrays_of(n_envs)),
        )
        for name, row in rows.items()
    ]


PENDULUM: dict[str, Any] = {"learning_starts": 500}
BFLOAT16: dict[str, Any] = {"precision": "bfloat16", **PENDULUM}
ROWS = [
    Row(
        "sac",
        "SAC, Pendulum-v1, the zoo's settings, 3,000 steps, warm",
        "SB3",
        partial(beside_sb3, "sac", "Pendulum-v1", 3_000, **PENDULUM),
        2,
        2.8,
        pairs=3,
        steps=partial(compiled, "sac", "Pendulum-v1", 3_000, **PENDULUM),
    ),
    Row(
        "td3",
        "TD3, the same",
        "SB3",
        partial(beside_sb3, "td3", "Pendulum-v1", 3_000, **PENDULUM),
        2,
        2.8,
        pairs=3,
        steps=partial(compiled, "td3", "Pendulum-v1", 3_000, **PENDULUM),
    ),
    *(
        Row(
            f"{what}_bfloat16",
            f"{what.upper()}, the same, our updates in bfloat16",
            "SB3",
            partial(beside_sb3, what, "Pendulum-v1", 3_000, **BFLOAT16),
            1,  # as it comes
            pairs=3,
            steps=partial(compiled, what, "Pendulum-v1", 3_000, **BFLOAT16),
        )
        for what in ("sac", "td3")
    ),
    Row(
        "ppo",
        "PPO, CartPole-v1, the zoo's settings, 8 environments, 100,000 steps, warm",
        "SB3",
        partial(beside_sb3, "ppo", "CartPole-v1", 100_000),
        6,
        12,
        steps=partial(compiled, "ppo", "CartPole-v1", 100_000),
    ),
    Row(
        "ppo_sbx",
        "PPO, CartPole-v1, the same, the loop, each at its best thread count",
        "SBX 0.28",
        partial(beside_sbx, "ppo", "CartPole-v1", 100_000, 2_000),
        1.2,
        pairs=3,
    ),
    Row(
        "sac_sbx",
        "SAC, Pendulum-v1, the same, the loop, each at its best thread count",
        "SBX 0.28",
        partial(beside_sbx, "sac", "Pendulum-v1", 3_000, 600, **PENDULUM),
        1,
        pairs=3,
    ),
    Row(
        "td3_sbx",
        "TD3, the same",
        "SBX 0.28",
        partial(beside_sbx, "td3", "Pendulum-v1", 3_000, 600, **PENDULUM),
        1,
        pairs=3,
    ),
    *(row for n_envs in ROLLOUTS for row in of_many(n_envs)),
    Row("act_ppo", "one action of PPO, 64-64", "SB3's predict", partial(act, "PPO", "CartPole-v1"), 8, 12, unit=MICRO),
    Row("act_sac", "one action of SAC, 256-256", "SB3's predict", partial(act, "SAC", "Pendulum-v1"), 8, unit=MICRO),
]


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    with threads_of_all(settings["threads"]):
        print(json.dumps({"seconds": loop(settings)}))
