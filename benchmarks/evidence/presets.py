"""What `agentlib list presets` shows: the return that each preset reaches, and the seconds that it takes."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import agentlib
from agentlib.envs.making import make_env
from agentlib.runs.plan import settings_of
from benchmarks.experiments import Claim, Experiment

LAKE, CLIFF = "FrozenLake-v1", {"max_episode_steps": 200}
TASKS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "cartpole": ("CartPole-v1", {}, 475.0),
    "acrobot": ("Acrobot-v1", {}, -100.0),
    "mountaincar": ("MountainCar-v0", {}, -120.0),
    "lunarlander": ("LunarLander-v3", {}, None),
    "frozenlake": (LAKE, {"is_slippery": False}, 1.0),
    "frozenlake_slippery": (LAKE, {}, 0.7),
    "taxi": ("Taxi-v4", {}, 7.5),
    "cliffwalking": ("CliffWalking-v1", CLIFF, -13.0),
    "blackjack": ("Blackjack-v1", {}, None),
    "minigrid_5x5": ("MiniGrid-Empty-5x5-v0", {}, 0.9),
    "minigrid_8x8": ("MiniGrid-Empty-8x8-v0", {}, 0.9),
    "catch": ("agentlib/Catch-v0", {}, 9.5),
}
"""By name: the environment, its arguments, and the return that is asked for."""
NOTES = {
    "preset_q_table_frozenlake_slippery": "Seeds 5 to 9. On seeds 0 to 4 it was 0.68 with 40,000 steps and 100 "
    "episodes at the end (not met). 60,000 steps were chosen on seeds 100 to 104 (0.80 there). Seeds 0 to 3 then "
    "gave 0.67, 0.68, 0.73, 0.64 of 100 episodes, and seeds 0 to 4 a median of 0.727 of 1,000, with 100 in each "
    "evaluation on the way. So steps and episodes were chosen with a look at seeds 0 to 4, and are judged on others."
}
FIRST_SEED = {"preset_q_table_frozenlake_slippery": 5}
"""Where others than the seeds from 0 on are run."""
TABULAR = ("frozenlake", "frozenlake_slippery", "taxi", "cliffwalking", "blackjack")
EVALUATIONS = 20


def measure(learner: str, env: str, env_kwargs: dict[str, Any], seed: int) -> dict[str, float]:
    """The preset's run with its default length; its best agent by evaluations in mid-run, and its last, play again."""
    episodes, final_episodes = {"Blackjack-v1": (500, 5_000), LAKE: (100, 1_000)}.get(env, (20, 100))
    steps = settings_of(learner, env, {}).steps
    assert steps is not None
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder, "run"), sum(os.times()[:4])
        evaluated = {"eval_every": steps // EVALUATIONS, "n_eval_episodes": episodes}
        last = agentlib.train(learner, env=env, env_kwargs=env_kwargs, seed=seed, out=out, progress=False, **evaluated)
        seconds = sum(os.times()[:4]) - began  # of the processor, as on a machine without other work
        best = agentlib.Agent.load(out / "best_agent.safetensors")
    world = partial(make_env, env, env_kwargs=env_kwargs, training=False)
    played = {
        name: agentlib.evaluate(agent, world, episodes=final_episodes, seed=seed).mean
        for name, agent in (("best", best), ("last", last))
    }
    return {**played, "seconds": seconds}


def experiment(learner: str, task: str) -> Experiment:
    """One preset on one task."""
    env, env_kwargs, goal = TASKS[task]
    name = f"preset_{learner}_{task}"
    steps = settings_of(learner, env, {}).steps
    given = "".join(f", {name}={value}" for name, value in env_kwargs.items())
    return Experiment(
        name=name,
        family="Presets",
        data=f"{env}{given}, {steps:,} steps",
        measure=lambda seed: measure(learner, env, env_kwargs, seed + FIRST_SEED.get(name, 0)),
        claims=(
            Claim("best", f"{learner}, the best of {EVALUATIONS} evaluations, played again", at_least=goal),
            Claim("last", f"{learner}, the last agent"),
            Claim("seconds", "seconds of one core, evaluations included"),
        ),
        note=NOTES.get(name, ""),
        about={"learner": learner, "env": env, "env_kwargs": env_kwargs, "steps": steps},
    )


EXPERIMENTS = [
    *(experiment("q_table", task) for task in TABULAR),
    *(experiment("dqn", task) for task in TASKS),
]
