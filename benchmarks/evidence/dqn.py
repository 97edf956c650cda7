"""Deep Q-learning beside Stable-Baselines3's, with the same settings."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import agentlib
from agentlib.engine.loop import Precision
from agentlib.runs.plan import settings_of
from benchmarks.experiments import Claim, Experiment

CATCH = "agentlib/Catch-v0"


def cartpole(seed: int) -> dict[str, float]:
    comparison = agentlib.compare("dqn", env="CartPole-v1", steps=50_000, seeds=[seed], threads=1, progress=False)
    ours, theirs = comparison.ours[0].evaluation.mean, comparison.sb3[0].evaluation.mean
    with tempfile.TemporaryDirectory() as folder:  # the same run again: evaluating in between changes nothing
        out = Path(folder, "run")
        agentlib.train("dqn", env="CartPole-v1", steps=50_000, seed=seed, eval_every=2_500, out=out, progress=False)
        best = agentlib.Agent.load(out / "best_agent.safetensors")
        best_mean = agentlib.evaluate(best, "CartPole-v1", episodes=100, seed=seed).mean
    return {"ours": ours, "sb3": theirs, "difference": ours - theirs, "best": best_mean}


def compiled_and_eager(seed: int) -> dict[str, float]:
    """The same run compiled and uncompiled: the sums are added up in another order, so the paths part in time."""
    scores = {}
    for name, compile in (("compiled", True), ("eager", False)):
        agent = agentlib.train(
            "dqn", env="CartPole-v1", steps=50_000, seed=seed, compile=compile, device="cpu", progress=False
        )
        scores[name] = agentlib.evaluate(agent, "CartPole-v1", episodes=100, seed=seed).mean
    return scores | {"difference": scores["compiled"] - scores["eager"]}


QUARTERS = ("first", "second", "third", "last")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def precisions(seed: int) -> dict[str, float]:
    """The greedy policy's return over each quarter of a run, from evaluations of ten episodes."""
    found: dict[str, float] = {}
    for precision in PRECISIONS:
        seen: dict[str, list[float]] = {quarter: [] for quarter in QUARTERS}

        def remember(clock: Any, metrics: Mapping[str, float], seen: dict[str, list[float]] = seen) -> None:
            if metrics.get("eval/mean_reward") is not None:
                seen[QUARTERS[min(int(clock.fraction * 4), 3)]].append(metrics["eval/mean_reward"])

        agentlib.train(
            settings_of("rainbow", CATCH, {}).config,
            env=CATCH,
            steps=20_000,
            seed=seed,
            eval_every=1_000,
            callback=remember,
            compile=True,
            precision=precision,
            progress=False,
        )
        found |= {f"{precision}_{quarter}": float(np.mean(returns)) for quarter, returns in seen.items()}
    return found | {"difference": found["bfloat16_last"] - found["float32_last"]}


EXPERIMENTS = [
    Experiment(
        name="dqn_cartpole",
        family="Q-learning",
        data="CartPole-v1, the RL Zoo's settings, 50,000 steps",
        measure=cartpole,
        seeds=10,
        claims=(
            Claim("ours", "DQN, final agent", statistic="iqm", at_least=475),
            Claim("sb3", "Stable-Baselines3's DQN, final agent", statistic="iqm"),
            Claim("difference", "paired difference, ours less SB3's", statistic="mean", at_least=0, of="part"),
            Claim("best", "DQN, the best of the run's evaluations, played again on fresh episodes", statistic="iqm"),
        ),
        note="The two are the same algorithm, step by step (tests/learners/test_dqn_whole_run.py). With these "
        "settings the last agent of a run is often not its best one, on both sides.",
    ),
    Experiment(
        name="dqn_compiled_cartpole",
        family="Q-learning",
        data="CartPole-v1, the RL Zoo's settings, 50,000 steps",
        measure=compiled_and_eager,
        seeds=20,
        claims=(
            Claim("compiled", "DQN compiled, final agent", statistic="iqm"),
            Claim("eager", "DQN uncompiled, final agent", statistic="iqm"),
            Claim("difference", "paired difference, compiled less uncompiled", statistic="mean"),
        ),
        note="Whether the compiler is to blame for runs that end low: it is not, if the interval holds 0.",
    ),
    Experiment(
        name="bfloat16_catch",
        family="Q-learning",
        data="agentlib/Catch-v0, all options, 20,000 steps",
        measure=precisions,
        seeds=10,
        claims=(
            *(
                Claim(f"{precision}_{quarter}", f"{precision}, return over the {quarter} quarter", statistic="mean")
                for quarter in QUARTERS
                for precision in PRECISIONS
            ),
            Claim(
                "difference",
                "bfloat16 less float32 over the last quarter, paired",
                statistic="mean",
                at_least=0,
                of="part",
            ),
        ),
        note="Seeds, settings and what is asked, that the interval is not wholly below 0, were fixed before any run.",
    ),
]
