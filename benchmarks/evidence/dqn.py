"""Deep Q-learning beside Stable-Baselines3's, with the same settings."""

import tempfile
from pathlib import Path

import agentlib
from benchmarks.experiments import Claim, Experiment


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
    """The same run compiled and as plain PyTorch: the sums are added up in another order, so the paths part in time."""
    scores = {}
    for name, compile in (("compiled", True), ("eager", False)):
        agent = agentlib.train(
            "dqn", env="CartPole-v1", steps=50_000, seed=seed, compile=compile, device="cpu", progress=False
        )
        scores[name] = agentlib.evaluate(agent, "CartPole-v1", episodes=100, seed=seed).mean
    return scores | {"difference": scores["compiled"] - scores["eager"]}


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
            Claim("eager", "DQN as plain PyTorch, final agent", statistic="iqm"),
            Claim("difference", "paired difference, compiled less plain", statistic="mean"),
        ),
        note="Whether the compiler is to blame for runs that end low: it is not, if the interval holds 0.",
    ),
]
