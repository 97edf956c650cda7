"""Novelty as a bonus: a goal that chance does not find."""

from typing import Any

import gymnasium

import agentlib
from agentlib.envs.novelty import NoveltyBonus
from agentlib.learners import DQNConfig
from benchmarks.experiments import Claim, Experiment

CELLS, STEPS, SCALE, EPISODES = 16, 10_000, 0.1, 20
CONFIG = DQNConfig(
    learning_rate=1e-3,
    buffer_size=STEPS,
    learning_starts=200,
    train_freq=2,
    target_update_interval=200,
    exploration_fraction=0.1,
    exploration_final_eps=0.02,
    net_arch=(64,),
    gamma=0.95,
)


class FirstGoal(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes the step of the first reward, by default the last one."""

    steps, first = 0, STEPS

    def step(self, action: Any) -> Any:
        outcome = self.env.step(action)
        self.steps += 1
        self.first = min(self.first, self.steps) if float(outcome[1]) > 0 else self.first
        return outcome


def corridor() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("agentlib/Corridor-v0", n=CELLS)


def bonus(seed: int) -> dict[str, float]:
    """DQN with the bonus and without it; both are evaluated without it."""
    found = {}
    for name, scale in (("with", SCALE), ("without", 0.0)):
        env = FirstGoal(corridor())
        agent = agentlib.train(CONFIG, env=NoveltyBonus(env, scale), steps=STEPS, seed=seed, progress=False)
        found[name] = agentlib.evaluate(agent, corridor, episodes=EPISODES, seed=seed).mean
        found[f"first_{name}"] = float(env.first)
    return found


EXPERIMENTS = [
    Experiment(
        name="novelty_corridor",
        family="Q-learning",
        data=f"agentlib/Corridor-v0, {CELLS} cells, {STEPS:,} steps",
        measure=bonus,
        first_seed=200,
        claims=(
            Claim("with", f"DQN with a bonus of {SCALE} for novelty, return without the bonus", at_least=1.0),
            Claim("without", "DQN by epsilon-greedy alone", at_most=0.0),
            Claim("first_with", "the first step at the goal, with the bonus"),
            Claim("first_without", f"without; {STEPS:,} is never"),
        ),
        note="The bonus is by the frequencies of the cells. Random play needs 131,070 steps on average.",
    ),
]
