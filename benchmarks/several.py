"""Actors beside one process, and eight stacked seeds beside one: the figures of docs/scaling.md.

    python benchmarks/several.py          # four minutes; needs Ray, and nothing else may run meanwhile
    python benchmarks/several.py --seeds-only

The numbers are kept in docs/benchmarks/several.json. Actors are timed by the clock, as they wait; updates by processor
seconds, the least of some blocks.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gymnasium

from agentlib.core.host import torch_threads
from agentlib.core.recipe import Problem
from agentlib.engine.stacked import Sources, Stack
from agentlib.experience.actors import LENGTH
from agentlib.learners import run
from agentlib.plots.report import provenance, write_json
from agentlib.runs.plan import job_of
from benchmarks.experiments import ROOT

KEPT = ROOT / "docs" / "benchmarks" / "several.json"
SLEEP, SEEDS = 0.002, 8
UPDATES, BLOCKS = 128, 10
PARTS = ("update", "stepping environments", "together")


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole with a step of 2 ms, as a simulation would take."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action: Any) -> Any:
        time.sleep(SLEEP)
        return self.env.step(action)


def steps_per_second(env: Any, actors: int | None, n_envs: int, blocks: int = 20) -> float:
    """Environment steps per second of DQN with few updates, from the end of the second block on: without Ray's start.

    There the next block is just begun, and at the end of the run none is: as many are made as are counted.
    """
    block, times = n_envs * LENGTH, dict[int, float]()
    settings: dict[str, Any] = {"learning_starts": block, "train_freq": 16, "gradient_steps": 1}
    problem = Problem(env=env, actors=actors, n_envs=n_envs, steps=blocks * block, device="cpu")
    job = job_of("dqn", problem, **settings)
    try:
        with torch_threads(1):
            for clock, _ in run(job.learner, job.source, 10**6, compile=False):
                times[int(clock.steps)] = time.perf_counter()
                if clock.steps >= blocks * block:
                    break
    finally:
        job.source.close()
    return (blocks - 2) * block / (times[blocks * block] - times[2 * block])


def actors() -> dict[str, float]:
    """Two slow environments in one process and in one and two actors; and what a block of one actor costs more."""
    found = {
        name: steps_per_second(Slow, number, 2)
        for name, number in {"in one process": None, "one actor": 1, "two actors": 2}.items()
    }
    found["two actors over one process"] = found["two actors"] / found["in one process"]
    for name, env in {"2 ms": Slow, "CartPole": "CartPole-v1"}.items():
        plain, sent = (steps_per_second(env, number, 1) for number in (None, 1))
        found[f"seconds more per block, {name}"] = LENGTH / sent - LENGTH / plain
        found[f"share more per block, {name}"] = plain / sent - 1.0
    return found


def seconds(n_seeds: int, compile: bool, steps: bool, updates: int = UPDATES, blocks: int = BLOCKS) -> float:
    """Processor seconds of a block of updates of DQN for several seeds, with the environments' steps or without."""
    problems = [Problem(env="CartPole-v1", seed=seed, steps=10**6, device="cpu") for seed in range(n_seeds)]
    jobs = [job_of("dqn", problem, net_arch=(64, 64), learning_starts=1_000) for problem in problems]
    learner: Any = jobs[0].learner
    source: Any = jobs[0].source
    if n_seeds > 1:
        learner, source = Stack([job.learner for job in jobs]), Sources([job.source for job in jobs])
    made: Any = run(learner, source, 10**6, compile=compile)
    next(made)
    if not steps:
        for job in jobs:
            job.source.updates_due = 10**9
    times = list[float]()
    for _ in range(blocks):
        began = time.process_time()
        for _ in range(updates):
            next(made)
        times.append(time.process_time() - began)
    made.close()
    source.close()
    return min(times)


def stacked() -> dict[str, float]:
    """How many times the processor seconds of one seed eight take, by updates alone and with the environments."""
    found = dict[str, float]()
    with torch_threads(1):
        for compile in (False, True):
            block = partial(seconds, compile=compile)
            one, all_ = ([block(n, steps=steps) for steps in (False, True)] for n in (1, SEEDS))
            numbers = (all_[0] / one[0], (all_[1] - all_[0]) / (one[1] - one[0]), all_[1] / one[1])
            for name, number in zip(PARTS, numbers, strict=True):
                found[f"{name}, compile={compile}"] = number
    return found


def seeds_table(numbers: dict[str, float]) -> str:
    """What `stacked` found, as docs/scaling.md shows it."""
    lines = [f"| | {' | '.join(PARTS)} |", "| --- | --- | --- | --- |"]
    for compile in (False, True):
        cells = [f"{numbers[f'{part}, compile={compile}']:.1f}" for part in PARTS]
        lines.append(f"| `compile={compile}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds-only", action="store_true", help="leave out what needs Ray")
    seeds_only = parser.parse_args().seeds_only
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    found: dict[str, Any] = {"eight seeds over one": stacked()}
    if not seeds_only:
        found["actors"] = actors()
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    write_json(KEPT, kept | found | provenance())
    for part, numbers in found.items():
        print(part, *[f"  {name}: {number:.3g}" for name, number in numbers.items()], sep="\n")


if __name__ == "__main__":
    main()
