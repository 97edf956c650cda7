"""One whole run of DQN on CartPole in a process of its own, from its start to the agent:

    python benchmarks/cold.py ours|sb3 '{"steps": 20000, "seed": 0, "compile": true, "settings": {...}}'

prints one JSON object with the mean return of its last episodes. Only what a side needs is imported.

    python benchmarks/cold.py first

prints the seconds from the start of the process to the first compiled update of DQN with layers of 64, and from there
to that of a second structure, layers of 128. Caches are where AGENTLIB_CACHE, TORCHINDUCTOR_CACHE_DIR and TMPDIR say.
"""

import json
import sys
import time

STARTED = time.time()


def ours(given):
    from agentlib.core.recipe import Problem
    from agentlib.learners import DQNConfig, run
    from agentlib.runs.plan import job_of

    config = DQNConfig(**{**given["settings"], "net_arch": tuple(given["settings"]["net_arch"])})
    job = job_of(config, Problem(env="CartPole-v1", steps=given["steps"], device="cpu", seed=given["seed"]))
    for _ in run(job.learner, job.source, job.length.updates, compile=given["compile"]):
        pass
    returns = job.source.collector.returns
    job.source.close()
    return returns


def sb3(given):
    import gymnasium
    from stable_baselines3 import DQN

    settings = {**given["settings"], "policy_kwargs": {"net_arch": given["settings"]["net_arch"]}}
    del settings["net_arch"]
    env = gymnasium.make("CartPole-v1")
    model = DQN("MlpPolicy", env, device="cpu", seed=given["seed"], **settings)
    model.learn(given["steps"])
    env.close()
    return [episode["r"] for episode in model.ep_info_buffer]


def first():
    """Seconds to the first compiled update, and to that of the next structure."""
    from agentlib.core.host import torch_threads
    from agentlib.core.recipe import Problem
    from agentlib.engine import run
    from agentlib.runs.plan import job_of

    found, last = [], STARTED
    settings = {"learning_starts": 100, "train_freq": 4, "gradient_steps": 1, "batch_size": 32}
    for width in (64, 128):
        problem = Problem(env="CartPole-v1", steps=100_000, device="cpu")
        job = job_of("dqn", problem, net_arch=(width, width), **settings)
        with torch_threads(1):
            next(run(job.learner, job.source, job.length.updates, compile=True))
        job.source.close()
        found.append(time.time() - last)
        last = time.time()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "first":
        print(json.dumps({"seconds": first()}))
        sys.exit()
    returns = {"ours": ours, "sb3": sb3}[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({"return": sum(returns) / max(len(returns), 1)}))
