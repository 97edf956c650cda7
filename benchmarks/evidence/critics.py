"""TQC, REDQ, DroQ and CrossQ beside SAC: the return on the way, where SAC is in the middle of learning."""

from __future__ import annotations

from typing import Any

import numpy as np

import agentlib
from agentlib.learners.actor_critic.presets import CROSSQ_NUMBERS, DROQ_NUMBERS, TQC_NUMBERS
from benchmarks.beside_sb3 import FRESH
from benchmarks.experiments import Claim, Experiment

STEPS, EVERY, EPISODES = 2_000, 250, 20
SHARED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 500,
    "batch_size": 128,
    "net_arch": (64, 64),
}
"""One rate for all: the RL Zoo's for Pendulum, and that of CrossQ."""
KINDS: dict[str, dict[str, Any]] = {
    "sac": {},
    "tqc": TQC_NUMBERS,
    "redq": {"n_critics": 10, "target_subset": 2, "gradient_steps": 20, "policy_delay": 20},
    "droq": DROQ_NUMBERS,
    "crossq": {**CROSSQ_NUMBERS, "qf_arch": (256, 256)},
}


def on_the_way(kind: str, seed: int) -> float:
    """The mean return of all evaluations after random play."""
    seen: list[float] = []

    def remember(clock: Any, metrics: dict[str, float]) -> None:
        if metrics.get("eval/mean_reward") is not None and clock.steps > SHARED["learning_starts"]:
            seen.append(metrics["eval/mean_reward"])

    settings = SHARED | KINDS[kind] | {"eval_every": EVERY, "n_eval_episodes": EPISODES, "callback": remember}
    agentlib.train("sac", env="Pendulum-v1", steps=STEPS, seed=seed, threads=1, progress=False, **settings)
    return float(np.mean(seen))


def beside_sac(seed: int) -> dict[str, float]:
    found = {kind: on_the_way(kind, seed) for kind in KINDS}
    return found | {f"{kind}_over": found[kind] - found["sac"] for kind in NAMES}


NAMES = {
    "tqc": "TQC",
    "redq": "REDQ (10 critics, 20 updates a step)",
    "droq": "DroQ (20 updates a step)",
    "crossq": "CrossQ (critics of 256 and 256)",
}
EXPERIMENTS = [
    Experiment(
        name="critics_beside_sac",
        family="Critics of SAC",
        data=f"Pendulum-v1, {STEPS:,} steps, layers of 64 and 64, batches of 128, mean of the evaluations on the way",
        measure=beside_sac,
        seeds=3,
        first_seed=FRESH,
        claims=(
            Claim("sac", "SAC", statistic="mean"),
            *(Claim(kind, name, statistic="mean") for kind, name in NAMES.items()),
            *(
                Claim(f"{kind}_over", f"{name}, less SAC, paired", statistic="mean", at_least=0, of="interval")
                for kind, name in NAMES.items()
            ),
        ),
        note="Random play is worth about -1,230, and SAC is near the best, -150, after 20,000 steps: nothing is left "
        "to be gained there, and the first 2,000 separate the learners more.",
    ),
]
