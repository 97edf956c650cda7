"""Deep Q-learning beside Stable-Baselines3's, with the same settings."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import agentlib
from agentlib.engine.loop import Precision
from agentlib.runs.plan import settings_of
from benchmarks.beside_sb3 import FRESH, design, mean_return
from benchmarks.experiments import Claim, Experiment

CATCH = "agentlib/Catch-v0"


def cartpole(seed: int) -> dict[str, float]:
    comparison = agentlib.compare("dqn", env="CartPole-v1", steps=50_000, seeds=[seed], threads=1, progress=False)
    found = {"ours": comparison.ours[0].evaluation.mean, "sb3": comparison.sb3[0].evaluation.mean}
    found["difference"] = mean_return(comparison.ours[0]) - mean_return(comparison.sb3[0])
    with tempfile.TemporaryDirectory() as folder:  # the same run again: evaluating in between changes nothing
        out = Path(folder, "run")
        agentlib.train("dqn", env="CartPole-v1", steps=50_000, seed=seed, eval_every=2_500, out=out, progress=False)
        best = agentlib.Agent.load(out / "best_agent.safetensors")
        best_mean = agentlib.evaluate(best, "CartPole-v1", episodes=100, seed=seed).mean
    return {**found, "best": best_mean}


def compiled_and_eager(seed: int) -> dict[str, float]:
    """The same run compiled and uncompiled: the sums are added up in another order, so the paths part in time."""
    scores, settings = {}, {"env": "CartPole-v1", "steps": 50_000, "device": "cpu", "progress": False}
    for name, compile in (("compiled", True), ("eager", False)):
        seen: list[float] = []

        def remember(clock: Any, metrics: Mapping[str, float], seen: list[float] = seen) -> None:
            if metrics.get("eval/mean_reward") is not None:
                seen.append(metrics["eval/mean_reward"])

        agent: Any = agentlib.train("dqn", **settings, seed=seed, compile=compile, eval_every=1_000, callback=remember)
        scores[name] = agentlib.evaluate(agent, "CartPole-v1", episodes=100, seed=seed).mean
        scores[f"{name}_during"] = float(np.mean(seen))
    return scores | {"difference": scores["compiled_during"] - scores["eager_during"]}


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
    whole = (np.mean([found[f"{precision}_{quarter}"] for quarter in QUARTERS]) for precision in PRECISIONS)
    float32, bfloat16 = (float(mean) for mean in whole)
    return found | {"difference": bfloat16 - float32}


MARGIN, DEVIATION, SEEDS = 50, 60, 14
"""A tenth of the largest return; the deviation of differences over whole runs, and the seeds that it asks for."""
PILOT = "more than that of two pilot seeds: 20 and -48 beside SB3, 4 and -50 compiled"

CATCH_MARGIN, CATCH_DEVIATION, CATCH_SEEDS = 0.5, 1.03, 36
"""A twentieth of the largest return, the deviation of differences over whole runs, and the seeds that these ask for."""
CATCH_PILOT = "of the seeds 0 to 9, which an earlier design used"


EXPERIMENTS = [
    Experiment(
        name="dqn_cartpole",
        family="Q-learning",
        data="CartPole-v1, the RL Zoo's settings, 50,000 steps",
        measure=cartpole,
        seeds=SEEDS,
        first_seed=FRESH,
        claims=(
            Claim("ours", "DQN, final agent", statistic="iqm", at_least=475),
            Claim("sb3", "Stable-Baselines3's DQN, final agent", statistic="iqm"),
            Claim(
                "difference",
                "mean return over all training steps, ours less SB3's, paired",
                statistic="mean",
                at_least=-MARGIN,
                of="interval",
            ),
            Claim("best", "DQN, the best of the run's evaluations, played again on fresh episodes", statistic="iqm"),
        ),
        note=f"{design(MARGIN, DEVIATION, PILOT, SEEDS)} Final agents differ by a deviation of 200, for which a margin "
        "of 50 would need 130 seeds: with these settings the last agent of a run is often not its best one, on both "
        "sides. An earlier design asked that the interval of their difference hold 0, and was met by 20 seeds with "
        "-24 [-118, 70]. The two are the same algorithm, step by step (tests/learners/test_dqn_whole_run.py).",
    ),
    Experiment(
        name="dqn_compiled_cartpole",
        family="Q-learning",
        data="CartPole-v1, the RL Zoo's settings, 50,000 steps",
        measure=compiled_and_eager,
        seeds=SEEDS,
        first_seed=FRESH,
        claims=(
            Claim("compiled", "DQN compiled, final agent", statistic="iqm"),
            Claim("eager", "DQN uncompiled, final agent", statistic="iqm"),
            Claim(
                "difference",
                "mean of 50 evaluations on the way, compiled less uncompiled, paired",
                statistic="mean",
                at_least=-MARGIN,
                of="interval",
            ),
        ),
        note=f"Whether the compiler is to blame for runs that end low. {design(MARGIN, DEVIATION, PILOT, SEEDS)}",
    ),
    Experiment(
        name="bfloat16_catch",
        family="Q-learning",
        data="agentlib/Catch-v0, all options, 20,000 steps",
        measure=precisions,
        seeds=CATCH_SEEDS,
        first_seed=FRESH,
        claims=(
            *(
                Claim(f"{precision}_{quarter}", f"{precision}, return over the {quarter} quarter", statistic="mean")
                for quarter in QUARTERS
                for precision in PRECISIONS
            ),
            Claim(
                "difference",
                "mean of all evaluations on the way, bfloat16 less float32, paired",
                statistic="mean",
                at_least=-CATCH_MARGIN,
                of="interval",
            ),
        ),
        note=f"{design(CATCH_MARGIN, CATCH_DEVIATION, CATCH_PILOT, CATCH_SEEDS)} An earlier design asked that the "
        "interval over the last quarter be not wholly below 0: it was met by the seeds 0 to 9, 0.14 [-1.75, 2.04].",
    ),
]
