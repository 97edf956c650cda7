"""The loop of DQN on Pong in a process of its own, from its first update on:

    python benchmarks/pong.py ours|sb3 '{"steps": 1600, "seed": 0, "precision": "float32", "settings": {...}}'

prints one JSON object with its seconds. Side by side in one process, the second side would work in memory that the
first one has left: alone SB3 asks the system for 2,000 to 5,000 pages in each cycle, and after ours for 30.
"""

import json
import sys
import time


def ours(given):
    from agentlib.core.recipe import Problem
    from agentlib.learners import DQNConfig, run
    from agentlib.runs.plan import job_of

    config, steps = DQNConfig(**given["settings"]), given["settings"]["learning_starts"] + given["steps"]
    job = job_of(config, Problem(env="ALE/Pong-v5", steps=steps, device="cpu", seed=given["seed"]))
    updates = run(job.learner, job.source, job.length.updates, compile=True, precision=given["precision"])
    next(updates)
    started = time.perf_counter()
    for _ in updates:
        pass
    seconds = time.perf_counter() - started
    job.source.close()
    return seconds


def sb3(given):
    import ale_py  # noqa: F401 - registers the games
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=given["seed"]), 4)
    model = DQN("CnnPolicy", env, device="cpu", seed=given["seed"], **given["settings"])
    model.learn(given["settings"]["learning_starts"])
    started = time.perf_counter()
    model.learn(given["steps"], reset_num_timesteps=False)
    seconds = time.perf_counter() - started
    env.close()
    return seconds


if __name__ == "__main__":
    import torch
    from threadpoolctl import threadpool_limits

    given = json.loads(sys.argv[2])
    torch.set_num_threads(given["threads"])
    work = {"ours": ours, "sb3": sb3}[sys.argv[1]]
    with threadpool_limits(given["threads"]):  # also numpy's
        print(json.dumps({"seconds": work(given)}))
