"""One whole run of DQN on CartPole in a process of its own, from its start to the agent:

    python benchmarks/cold.py ours|sb3 '{"steps": 20000, "seed": 0, "compile": true, "settings": {...}}'

prints one JSON object with the mean return of its last episodes. Only what a side needs is imported.
"""

import json
import sys


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


if __name__ == "__main__":
    returns = {"ours": ours, "sb3": sb3}[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({"return": sum(returns) / max(len(returns), 1)}))
