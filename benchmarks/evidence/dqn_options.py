"""What each option of deep Q-learning changes, one task for each."""

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import ReshapeObservation
from stable_baselines3 import DQN as SB3DQN

import agentlib
from agentlib.core.host import global_generators_kept
from agentlib.core.recipe import Problem
from agentlib.learners import DQNConfig, run
from agentlib.runs.plan import job_of, settings_of
from agentlib.sb3.training import sb3_arguments, train_sb3
from benchmarks.experiments import Claim, Experiment

FAMILY = "Options of Q-learning"


def late_return(config: DQNConfig, env: str, steps: int, seed: int) -> float:
    """The mean return of the greedy policy over the last fifth of a run: evaluations of ten episodes.

    The last agent alone is a matter of luck where policies come and go.
    """
    seen: list[float] = []

    def remember(clock: Any, metrics: dict[str, float]) -> None:
        if metrics.get("eval/mean_reward") is not None and clock.fraction > 0.76:
            seen.append(metrics["eval/mean_reward"])

    agentlib.train(config, env=env, steps=steps, seed=seed, eval_every=steps // 20, callback=remember, progress=False)
    return float(np.mean(seen))


# Masks ---------------------------------------------------------------------------------------------------------------


class WithoutMasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says nothing of legal actions."""

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        return observation, {name: value for name, value in info.items() if name != "action_mask"}

    def step(self, action: Any) -> Any:
        *outcome, info = self.env.step(action)
        return (*outcome, {name: value for name, value in info.items() if name != "action_mask"})


TAXI = DQNConfig(
    learning_rate=1e-3,
    buffer_size=50_000,
    learning_starts=1_000,
    batch_size=64,
    target_update_interval=500,
    exploration_fraction=0.5,
    net_arch=(64,),
)


def taxi(seed: int) -> dict[str, float]:
    made: dict[str, Any] = {"with": "Taxi-v4", "without": lambda: WithoutMasks(gymnasium.make("Taxi-v4"))}
    found = {}
    for name, env in made.items():
        agent = agentlib.train(TAXI, env=env, steps=30_000, seed=seed, progress=False, compile=False)
        found[name] = agentlib.evaluate(agent, env, episodes=100, seed=seed).mean
    return found | {"difference": found["with"] - found["without"]}


# Returns of several steps, and priorities ----------------------------------------------------------------------------

CORRIDOR = DQNConfig(
    learning_rate=1e-3,
    buffer_size=20_000,
    learning_starts=500,
    target_update_interval=200,
    exploration_fraction=1.0,
    exploration_final_eps=0.1,
    net_arch=(32,),
    gamma=0.95,
)
CORRIDOR_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "n_steps": {"n_steps": 5},
    "prioritized": {"prioritized": True},
    "both": {"n_steps": 5, "prioritized": True},
}
CORRIDOR_STEPS = 40_000


class FirstReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes the step of the first reward."""

    steps, first = 0, CORRIDOR_STEPS

    def step(self, action: Any) -> Any:
        outcome = self.env.step(action)
        self.steps += 1
        if float(outcome[1]) > 0:
            self.first = min(self.first, self.steps)
        return outcome


def corridor(seed: int) -> dict[str, float]:
    """Updates from the first reward to the solution, by the option."""
    found = {name: updates_to_solve({}, options, seed) for name, options in CORRIDOR_OPTIONS.items()}
    return found | {
        f"{name}_ratio": found["plain"] / max(found[name], 1.0) for name in ("n_steps", "prioritized", "both")
    }


def long_corridor(seed: int) -> dict[str, float]:
    """The same where the reward is easily found, and the way back from it long."""
    found = {
        name: updates_to_solve({"n": 30, "forgiving": True, "max_episode_steps": 200}, CORRIDOR_OPTIONS[name], seed)
        for name in ("plain", "n_steps")
    }
    return found | {"ratio": found["plain"] / max(found["n_steps"], 1.0)}


def updates_to_solve(kwargs: dict[str, Any], options: dict[str, Any], seed: int) -> float:
    """Updates after the first reward until the greedy policy goes to the end of a corridor made with `kwargs`."""
    made = gymnasium.make("agentlib/Corridor-v0", **kwargs)
    right, env = made.unwrapped.right, FirstReward(made)  # type: ignore[attr-defined]
    problem = Problem(env=env, steps=CORRIDOR_STEPS, seed=seed, device="cpu")
    job = job_of(CORRIDOR, problem, **options)
    started = updates = 0
    for clock, _ in run(job.learner, job.source, job.length.updates, compile=False):
        updates = int(clock.updates)
        started = started or (updates if env.first < CORRIDOR_STEPS else 0)
        if started and updates % 5 == 0 and (job.product.act(np.arange(len(right))) == right).all():
            break
    return float(updates - started)


# Several components --------------------------------------------------------------------------------------------------


class Numbered(gymnasium.ActionWrapper[Any, Any, Any]):
    """All combinations of the components as one list of actions."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, spaces.MultiDiscrete)
        self.nvec = env.action_space.nvec
        self.action_space = spaces.Discrete(int(self.nvec.prod()))

    def action(self, action: Any) -> Any:
        return np.array(np.unravel_index(int(action), self.nvec))


DIALS = DQNConfig(
    learning_rate=2e-3,
    buffer_size=20_000,
    learning_starts=200,
    batch_size=64,
    target_update_interval=500,
    exploration_fraction=0.3,
    net_arch=(32,),
    gamma=0.5,
)


def dials(seed: int) -> dict[str, float]:
    made: dict[str, Any] = {
        "branches": "agentlib/Dials-v0",
        "flat": lambda: Numbered(gymnasium.make("agentlib/Dials-v0")),
    }
    found = {}
    for name, env in made.items():
        agent = agentlib.train(DIALS, env=env, steps=8_000, seed=seed, progress=False, compile=False)
        found[name] = agentlib.evaluate(agent, env, episodes=50, seed=seed).mean
    return found | {"difference": found["branches"] - found["flat"]}


# Heads ---------------------------------------------------------------------------------------------------------------

HEADS: dict[str, dict[str, Any]] = {
    "plain": {"net_arch": (128, 128)},
    "dueling": {"net_arch": (128,), "head_arch": (128,), "dueling": True},  # as deep as the plain one
    "quantile": {"net_arch": (128, 128), "distributional": "quantile", "n_quantiles": 32},
}
CARTPOLE = DQNConfig(
    learning_rate=5e-4,
    buffer_size=50_000,
    learning_starts=1_000,
    batch_size=64,
    target_update_interval=500,
    exploration_fraction=0.2,
    exploration_final_eps=0.04,
)
LANDER = DQNConfig(
    learning_rate=6.3e-4,
    buffer_size=50_000,
    learning_starts=1_000,
    batch_size=128,
    target_update_interval=250,
    train_freq=4,
    exploration_fraction=0.2,
    exploration_final_eps=0.1,
)


def heads(config: DQNConfig, env: str, steps: int, seed: int) -> dict[str, float]:
    found = {
        name: late_return(settings_of(config, None, options).config, env, steps, seed)
        for name, options in HEADS.items()
    }
    return found | {f"{name}_difference": found[name] - found["plain"] for name in ("dueling", "quantile")}


HEAD_CLAIMS = (
    Claim("plain", "one value per action", statistic="mean"),
    Claim("dueling", "dueling head", statistic="mean"),
    Claim("quantile", "32 quantiles", statistic="mean"),
    Claim("dueling_difference", "dueling less plain, paired", statistic="mean", at_least=-25),
    Claim("quantile_difference", "quantiles less plain, paired", statistic="mean", at_least=-25),
)


# Streams, with settings that others published -------------------------------------------------------------------------

CLEANRL = DQNConfig(
    learning_rate=2.5e-4,
    buffer_size=10_000,
    learning_starts=10_000,
    batch_size=128,
    target_update_interval=500,
    train_freq=10,
    exploration_fraction=0.5,
    exploration_final_eps=0.05,
    loss="mse",
    max_grad_norm=None,
)
"""The settings of CleanRL's `dqn.py` for CartPole-v1, whose layers are 120 and 84."""

FRESH = 200
"""Seeds from here on were not seen before the design was fixed."""


def streams(config: DQNConfig, env: str, steps: int, widths: tuple[int, int], seed: int) -> dict[str, float]:
    """Two layers; and the same with the second one in each of two streams, at half the learning rate.

    Both streams move the value of an action, so that a step of Adam moves it twice as far as with one layer.
    """
    first, second = widths
    rate: Any = config.learning_rate
    dueling = replace(config, net_arch=(first,), head_arch=(second,), dueling=True, learning_rate=rate / 2)
    kinds = {"plain": replace(config, net_arch=widths), "dueling": dueling}
    found = {name: late_return(kind, env, steps, FRESH + seed) for name, kind in kinds.items()}
    return found | {"difference": found["dueling"] - found["plain"]}


STREAM_CLAIMS = (
    Claim("plain", "one value per action", statistic="mean"),
    Claim("dueling", "dueling head", statistic="mean"),
    Claim("difference", "dueling less plain, paired", statistic="mean", at_least=0, of="part"),
)


# All together, beside Stable-Baselines3 ------------------------------------------------------------------------------


def channel_first() -> gymnasium.Env[Any, Any]:
    """Catch with an axis for its one channel, which SB3's convolutional network needs."""
    return ReshapeObservation(gymnasium.make("agentlib/Catch-v0"), (1, 36, 36))


def catch(seed: int) -> dict[str, float]:
    steps = 20_000
    plain = settings_of("dqn", "agentlib/Catch-v0", {}).config
    agents: dict[str, Any] = {
        "rainbow": agentlib.train(
            settings_of("rainbow", "agentlib/Catch-v0", {}).config,
            env=channel_first,
            steps=steps,
            seed=seed,
            progress=False,
        ),
        "dqn": agentlib.train(plain, env=channel_first, steps=steps, seed=seed, progress=False),
    }
    with global_generators_kept():
        env = channel_first()
        arguments = sb3_arguments(plain, SB3DQN, env.observation_space)
        agents["sb3"] = train_sb3(SB3DQN, arguments, env, steps=steps, seed=seed, device="cpu", progress=False)
        found = {
            name: agentlib.evaluate(agent, channel_first, episodes=100, seed=seed).mean
            for name, agent in agents.items()
        }
    return found | {"difference": found["rainbow"] - found["sb3"]}


EXPERIMENTS = [
    Experiment(
        name="masks_taxi",
        family=FAMILY,
        data="Taxi-v4, 30,000 steps",
        measure=taxi,
        claims=(
            Claim("with", "DQN with the masks of the info", statistic="mean"),
            Claim("without", "DQN without them", statistic="mean"),
            Claim("difference", "with less without, paired", statistic="mean", at_least=0, of="interval"),
        ),
        note="The optimum is 7.9; an episode that is not solved in 200 steps is worth -200 or less.",
    ),
    Experiment(
        name="n_step_prioritized_corridor",
        family=FAMILY,
        data="agentlib/Corridor-v0, 10 cells, up to 40,000 steps",
        measure=corridor,
        claims=(
            Claim("plain", "updates from the first reward to the solution: plain DQN"),
            Claim("n_steps", "the same, 5-step returns"),
            Claim("prioritized", "the same, prioritized replay"),
            Claim("both", "the same, both"),
            Claim("n_steps_ratio", "times faster, 5-step returns", at_least=1, of="interval"),
            Claim("prioritized_ratio", "times faster, prioritized replay", at_least=1, of="interval"),
            Claim("both_ratio", "times faster, both", at_least=1, of="interval"),
        ),
        note="The bound of the 5-step returns was set before the seeds were run. Why it is not met: nearly random play "
        "fills the buffer, and in 15 of 16 cases it errs in the four steps after an action. A return over five steps, "
        "which is not corrected for that, then leads back to the first cell, whatever the action was worth.",
    ),
    Experiment(
        name="n_steps_long_corridor",
        family=FAMILY,
        data="agentlib/Corridor-v0, 30 cells, forgiving, up to 40,000 steps",
        measure=long_corridor,
        claims=(
            Claim("plain", "updates from the first reward to the solution: plain DQN"),
            Claim("n_steps", "the same, 5-step returns"),
            Claim("ratio", "times faster, 5-step returns", at_least=1, of="interval"),
        ),
        note="What returns of several steps are for: a mistake costs one step, so that random play goes on towards the "
        "reward, which is found soon and has a long way back to the first cell.",
    ),
    Experiment(
        name="branches_dials",
        family=FAMILY,
        data="agentlib/Dials-v0, 6 dials of 7 digits, 8,000 steps",
        measure=dials,
        claims=(
            Claim("branches", "DQN with a branch per dial (42 values)", statistic="mean", at_least=15),
            Claim("flat", "DQN over the list of 117,649 actions", statistic="mean", reference="random: 2.9"),
            Claim("difference", "branches less flat, paired", statistic="mean", at_least=0, of="interval"),
        ),
        note="The optimum is 20.",
    ),
    Experiment(
        name="heads_cartpole",
        family=FAMILY,
        data="CartPole-v1, 30,000 steps, evaluations of the last fifth",
        measure=partial(heads, CARTPOLE, "CartPole-v1", 30_000),
        seeds=40,
        claims=HEAD_CLAIMS,
        note="Twenty seeds were planned, and gave -23.2 [-45.8, -0.1] for the dueling head. The others "
        "were measured after that was seen, to know whether it is below the plain one; forty is where they end.",
    ),
    Experiment(
        name="heads_lunarlander",
        family=FAMILY,
        data="LunarLander-v3, 100,000 steps, evaluations of the last fifth",
        measure=partial(heads, LANDER, "LunarLander-v3", 100_000),
        claims=HEAD_CLAIMS,
    ),
    Experiment(
        name="dueling_cartpole",
        family=FAMILY,
        data="CartPole-v1, CleanRL's settings, layers 120 and 84, 500,000 steps, evaluations of the last fifth",
        measure=partial(streams, CLEANRL, "CartPole-v1", 500_000, (120, 84)),
        seeds=15,
        claims=STREAM_CLAIMS,
        note="Settings, seeds (200 and up) and what is asked, that the interval is not wholly below 0, were fixed "
        "before any of these seeds was run. It is the second design: with one learning rate for both, six of twenty "
        "planned seeds gave 500 without streams, and with them 13 and 24 less on two seeds; two of ten on LunarLander "
        "gave 90 and 16 less. The cause was looked for on those seeds: at half the rate these two gave 500. "
        "The settings were found on seeds 100 and 101, after two others with which plain DQN ended at 444, 198 and "
        "128, and these with the Huber loss, which did not learn.",
    ),
    Experiment(
        name="dueling_lunarlander",
        family=FAMILY,
        data="LunarLander-v3, the RL Zoo's settings, layers 256 and 256, 100,000 steps, evaluations of the last fifth",
        measure=partial(
            streams, settings_of("dqn", "LunarLander-v3", {}).config, "LunarLander-v3", 100_000, (256, 256)
        ),
        seeds=8,
        claims=STREAM_CLAIMS,
        note="The same design.",
    ),
    Experiment(
        name="rainbow_catch",
        family=FAMILY,
        data="agentlib/Catch-v0, 20,000 steps",
        measure=catch,
        claims=(
            Claim("rainbow", "all options, final agent", statistic="mean"),
            Claim("dqn", "plain DQN, the preset", statistic="mean"),
            Claim("sb3", "Stable-Baselines3's DQN, the same preset", statistic="mean"),
            Claim("difference", "rainbow less SB3's, paired", statistic="mean", at_least=0, of="interval"),
        ),
        note="The optimum is 10; SB3's DQN has none of these options.",
    ),
]
