"""Speed beside Stable-Baselines3, in one process: `make bench`, or `python benchmarks/run.py --pairs 5`.

Both sides take turns, A B A B, after one warm-up each, with the same number of threads. What is reported is the ratio
of environment steps per second over whole runs, its median and the 95% bootstrap interval over pairs. The first run of
our side, which compiles, is reported apart.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import numpy as np
from stable_baselines3 import DQN as SB3DQN

from agentlib.evaluation import bootstrap_interval
from agentlib.evaluation.recording import global_generators_kept, torch_threads
from agentlib.evaluation.report import provenance
from agentlib.learners import DQNConfig, run
from agentlib.recipes import Problem, recipe_of

ROOT = Path(__file__).parent.parent
CONFIG = DQNConfig(net_arch=(64, 64))
"""SB3's defaults."""


def our_rate(steps, seed, compile):
    """Environment steps per second of a whole run, the making of it included."""
    started = time.perf_counter()
    problem = Problem(env="CartPole-v1", steps=steps)
    job = recipe_of(CONFIG).build(CONFIG, problem, backbone="auto", device="cpu", seed=seed)
    for _ in run(job.learner, job.source, job.updates, compile=compile):
        pass
    job.close()
    return steps / (time.perf_counter() - started)


def sb3_rate(steps, seed):
    started = time.perf_counter()
    env = gymnasium.make("CartPole-v1")
    model = SB3DQN("MlpPolicy", env, policy_kwargs={"net_arch": [64, 64]}, device="cpu", seed=seed)
    model.learn(steps)
    env.close()
    return steps / (time.perf_counter() - started)


def dqn_on_cartpole(pairs, steps):
    """DQN on CartPole with SB3's defaults and a 64-64 network."""
    first = our_rate(steps, seed=0, compile=True)
    sb3_rate(steps, seed=0)
    rows = {"ours": [], "eager": [], "sb3": []}
    for seed in range(1, pairs + 1):
        rows["ours"].append(our_rate(steps, seed, compile=True))
        rows["sb3"].append(sb3_rate(steps, seed))
        rows["eager"].append(our_rate(steps, seed, compile=False))
        print({side: round(rates[-1]) for side, rates in rows.items()}, flush=True)
    return {"first_run": first, **rows}


def ratio(above, below):
    values = np.array(above) / np.array(below)
    low, high = bootstrap_interval(values, np.median)
    return f"{np.median(values):.1f} [{low:.1f}, {high:.1f}]"


def page(results):
    rates = results["dqn_on_cartpole"]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; absolute numbers move from machine to machine, the ratios less.",
        "",
        f"DQN on CartPole-v1 with SB3's defaults and a 64-64 network, {results['steps']:,} environment steps per run, "
        f"{results['threads']} thread(s), {results['pairs']} alternating runs per side, everything in one process:",
        "",
        "| side | steps per second (median) | ratio to SB3: median, 95% interval |",
        "|---|---|---|",
    ]
    for side, label in (("ours", "agentlib, compiled, warm"), ("eager", "agentlib, `compile=False`"), ("sb3", "SB3")):
        lines.append(f"| {label} | {np.median(rates[side]):,.0f} | {ratio(rates[side], rates['sb3'])} |")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines += ["", f"The first compiled run, compilation included: {rates['first_run']:,.0f} steps per second.", ""]
    return "\n".join([*lines, f"Versions: {versions}; {results['machine']['cores']} cores.", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    arguments = parser.parse_args()
    with torch_threads(arguments.threads), global_generators_kept():
        rates = dqn_on_cartpole(arguments.pairs, arguments.steps)
    settings = {"steps": arguments.steps, "pairs": arguments.pairs, "threads": arguments.threads}
    results = {**settings, "dqn_on_cartpole": rates, **provenance()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    arguments.page.write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
