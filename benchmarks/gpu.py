"""The rows of docs/benchmarks.md that need a GPU: `python benchmarks/gpu.py`.

`--device cpu` only shows that it runs: everything is done a few times, and nothing is kept. Ratios as in
benchmarks/run.py; each time is measured to the end of the work that was queued.
"""

import argparse
import json
import os
import sys
from functools import cache, partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN as SB3DQN
from torch.utils.flop_counter import FlopCounterMode

import agentlib
from agentlib.backbones import TransformerEncoder
from agentlib.core.host import global_generators_kept
from agentlib.core.learner import cycle
from agentlib.core.recipe import Problem
from agentlib.envs.experts import expert_for
from agentlib.learners import BCConfig, DQNConfig, MAMLConfig, run
from agentlib.metrics import bootstrap_interval
from agentlib.plots.report import provenance
from agentlib.runs.plan import job_of
from benchmarks.experiments import ROOT
from benchmarks.run import PAGE, page
from benchmarks.speed import each, usual

KEPT = ROOT / "docs" / "benchmarks" / "gpu.json"


class Screens(gymnasium.Env):
    """Random screens of Atari's size."""

    observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._screen(), {}

    def step(self, action):
        return self._screen(), float(self.np_random.random()), bool(self.np_random.random() < 0.01), False, {}

    def _screen(self):
        return self.np_random.integers(0, 256, (4, 84, 84), np.uint8)


def seconds_of(work, times, device):
    """Seconds of one call, once all that was queued is done."""
    times = times if device == "cuda" else 1

    def calls():
        for _ in range(times):
            work()
        if device == "cuda":
            torch.cuda.synchronize()

    return each(calls, 1) / times


def ready(job):
    """A run of updates and nothing else, past its compilation."""
    updates = run(job.learner, job.source, 10**7, compile=True)
    for _ in range(3):
        next(updates)
    return partial(next, updates)


def plain(job):
    """The same learner with `backward()` and fused Adam."""
    for _ in run(job.learner, job.source, 3, compile=False):
        pass
    usual(job.learner)
    job.source.planned_updates = 10**9
    job.source.advance()
    return partial(cycle, job.learner, job.source)


@cache
def dqn_sides(device):
    settings = {"buffer_size": 2_000, "learning_starts": 500, "batch_size": 32}
    job = job_of(DQNConfig(**settings), Problem(env=Screens, steps=10**6, device=device))
    ours = ready(job)
    job.source.updates_due = 10**9
    model = SB3DQN("CnnPolicy", Screens(), device=device, seed=0, **settings)
    model.learn(600)
    return {"ours": ours, "theirs": partial(model.train, gradient_steps=1, batch_size=32)}


@cache
def clones(device, ensemble):
    demos = agentlib.experience.record_episodes(expert_for("agentlib/Catch-v0"), "agentlib/Catch-v0", 20, seed=0)
    config = BCConfig(batch_size=64, epochs=10_000, ensemble=ensemble)
    jobs = [job_of(config, Problem(demos=demos, device=device)) for _ in range(2)]
    return {"ours": ready(jobs[0]), "theirs": plain(jobs[1])}


@cache
def maml_sides(device):
    jobs = [job_of(MAMLConfig(), Problem(data="sinusoids", steps=10**6, device=device)) for _ in range(2)]
    return {"ours": ready(jobs[0]), "theirs": plain(jobs[1])}


@cache
def encoder_sides(device):
    """The time that its multiplications would take at the speed of large square products, beside its own."""
    dtype, side = torch.bfloat16, 4096 if device == "cuda" else 512
    encoder = TransformerEncoder(256, dim=side // 4, layers=4, heads=8).to(device)
    x = torch.randn(32, 256, 256, device=device)

    def work():
        with torch.autocast(device, dtype):
            encoder(x).square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        work()
    square = torch.randn(side, side, device=device, dtype=dtype)
    share = counter.get_total_flops() / (2 * side**3)
    return {"ours": work, "theirs": share * seconds_of(lambda: square @ square, 5, device)}


def pair_of(kind, device, times):
    return {side: seconds_of(work, times, device) if callable(work) else work for side, work in kind(device).items()}


ROWS = {
    "dqn": ("one update of DQN, the Nature CNN, batch 32", "SB3 on the GPU", dqn_sides, 100, "6x, goal 12x"),
    "bc": ("one update of BC, images on the device, batch 64", "plain PyTorch", partial(clones, ensemble=1), 50, ""),
    "ensemble": ("the same, five members", "plain PyTorch", partial(clones, ensemble=5), 20, ""),
    "maml": ("one update of MAML", "plain PyTorch", maml_sides, 20, ""),
    "encoder": ("a transformer encoder and its gradients, bfloat16", "its share of the peak", encoder_sides, 5, ""),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"rows, of {', '.join(ROWS)}; all of them by default")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU was found; --device cpu shows that this runs")
    kept = {}
    for name in arguments.names or ROWS:
        work, against, kind, times, asked = ROWS[name]
        with global_generators_kept():
            pairs = [pair_of(kind, arguments.device, times) for _ in range(arguments.pairs)]
        ours, theirs = (np.array([pair[side] for pair in pairs]) for side in ("ours", "theirs"))
        low, high = bootstrap_interval(theirs / ours, np.median)
        numbers = f"{np.median(ours) * 1e6:,.4g} µs | {np.median(theirs) * 1e6:,.4g} µs"
        ratio = f"{np.median(theirs / ours):.2g}x [{low:.2g}, {high:.2g}]"
        kept[name] = f"| {work} | {against} | {numbers} | {ratio} | {asked} |"
        print(kept[name], flush=True)
    if arguments.device == "cuda":
        before = json.loads(KEPT.read_text())["rows"] if KEPT.is_file() else {}
        gpu = {"gpu": torch.cuda.get_device_name()}
        KEPT.write_text(json.dumps({"rows": before | kept, **gpu, **provenance()}, indent=1) + "\n")
        PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
