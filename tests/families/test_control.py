"""Runs of deep Q-learning put together: environments are closed by whom they belong to, names, presets and lengths."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.catalog import recipe_of
from agentlib.core.recipe import Job, Problem
from agentlib.engine import run
from agentlib.learners.q_learning.presets import RAINBOW_OPTIONS
from agentlib.policies import CategoricalPolicy
from agentlib.runs.plan import plan

CARTPOLE: Any = {"env": "CartPole-v1", "steps": 300}


class Watched(gymnasium.Env[Any, Any]):
    """Knows whether it was closed."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    closed: int = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self) -> None:
        self.closed += 1


class Odd(Watched):
    """Nobody learns DQN here."""

    action_space: Any = spaces.Box(-1.0, 1.0, (2,))


def assembled(what: str, hyperparameters: Any = None, **problem: Any) -> Job:
    planned = plan(what, Problem(**problem), hyperparameters or {})
    return planned.recipe.family.assemble(planned.recipe, Problem(**problem, config=planned.config))


def collecting(kind: type[Watched], made: list[Watched]) -> Any:
    def make() -> Watched:
        made.append(kind())
        return made[-1]

    return make


@pytest.mark.parametrize("what", ["dqn", "recurrent_dqn"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_environments_that_were_made_are_closed_with_the_source(what, n_envs):
    made: list[Watched] = []
    job = assembled(what, env=collecting(Watched, made), n_envs=n_envs, steps=5_000)
    assert [env.closed for env in made] == [0] * n_envs
    job.source.close()
    assert [env.closed for env in made] == [1] * n_envs


@pytest.mark.parametrize("what", ["dqn", "recurrent_dqn"])
def test_the_callers_environment_stays_open(what):
    env = Watched()
    assembled(what, env=env, steps=5_000).source.close()
    with pytest.raises(ValueError, match="nothing would be learned"):
        assembled(what, env=env, steps=5)
    assert env.closed == 0


@pytest.mark.parametrize("what", ["dqn", "recurrent_dqn"])
@pytest.mark.parametrize(("kind", "steps", "message"), [(Watched, 5, "nothing would"), (Odd, 5_000, "needs a Disc")])
def test_environments_are_closed_where_building_fails(what, kind, steps, message):
    made: list[Watched] = []
    with pytest.raises(ValueError, match=message):
        assembled(what, env=collecting(kind, made), n_envs=2, steps=steps)
    assert [env.closed for env in made] == [1, 1]


def test_nothing_to_learn_says_when_there_would_be():
    with pytest.raises(ValueError, match=r"steps=90 end before .*learning_starts=100 .*train_freq=4"):
        assembled("dqn", {"learning_starts": 100, "train_freq": 4}, env="CartPole-v1", steps=90)
    with pytest.raises(ValueError, match=r"steps=40 end before .*learning_starts=48 "):  # a sequence, and its period
        assembled("recurrent_dqn", {"learning_starts": 10}, env="CartPole-v1", steps=40)


def test_a_replay_says_how_it_goes():
    settings: Any = {"learning_starts": 20, "train_freq": 4, "gradient_steps": 1, "net_arch": (16,), "batch_size": 16}
    job = assembled("dqn", settings, **CARTPOLE)
    assert job.source.measures() == {"time/episodes": 0.0, "rollout/exploration_rate": 1.0}
    for _ in run(job.learner, job.source, job.length.updates, compile=False):
        pass
    measures = job.source.measures()
    assert job.source.finished
    assert measures["time/episodes"] > 3
    assert measures["rollout/ep_rew_mean"] == measures["rollout/ep_len_mean"] > 8
    assert 0.04 <= measures["rollout/exploration_rate"] < 0.3
    assert job.judge.facts["replay_bytes"] > 0
    assert job.judge.evaluate().keys() == {"eval/mean_reward", "eval/mean_ep_length"}
    job.source.close()


@pytest.mark.parametrize(
    ("what", "env", "steps"),
    [
        ("dqn", "CartPole-v1", 50_000),
        ("rainbow", "MountainCar-v0", 120_000),
        ("dqn", "LunarLander-v3", 100_000),
        ("rainbow", "ALE/Pong-v5", 10_000_000),
        ("dqn", "agentlib/Chain-v0", 100_000),
        ("rainbow", "agentlib/Chain-v0", 100_000),
        ("recurrent_dqn", "agentlib/CartPoleNoVel-v0", 250_000),
        ("recurrent_dqn", "CartPole-v1", 100_000),
    ],
)
def test_each_name_has_a_length(what, env, steps):
    assert plan(what, Problem(env=env), {}).steps == steps


def test_rainbow_is_all_options_on_the_settings_of_dqn():
    for env in ("CartPole-v1", "agentlib/Catch-v0", "agentlib/Chain-v0"):
        plain, rainbow = plan("dqn", Problem(env=env), {}).config, plan("rainbow", Problem(env=env), {}).config
        own = {"head_arch": (128,), "n_quantiles": 32} if env == "agentlib/Catch-v0" else {}
        expected = vars(plain) | RAINBOW_OPTIONS | own
        assert vars(rainbow) == expected
    assert recipe_of(plain).name == "dqn"
    assert (recipe_of("rainbow").name, recipe_of("rainbow").sb3.algorithm) == ("rainbow", "DQN")  # type: ignore[union-attr]


def test_a_run_goes_on_from_an_agent_that_fits():
    job = assembled("dqn", {"learning_starts": 20}, **CARTPOLE)
    further = assembled("dqn", {"learning_starts": 20}, **CARTPOLE, agent=job.product)
    assert further.product.policy is not job.product.policy
    for mine, theirs in zip(further.product.policy.parameters(), job.product.policy.parameters(), strict=True):
        assert (mine == theirs).all()
    world = gymnasium.make("CartPole-v1")
    classifier = Agent(CategoricalPolicy(MLP(4, ()), 2), world.observation_space, world.action_space)
    with pytest.raises(ValueError, match="dqn goes on from an agent with action values, not CategoricalPolicy"):
        assembled("dqn", **CARTPOLE, agent=classifier)
    with pytest.raises(ValueError, match="recurrent_dqn goes on from an agent with action values and memory"):
        assembled("recurrent_dqn", env="CartPole-v1", steps=5_000, agent=job.product)
    with pytest.raises(ValueError, match="dueling=True"):
        assembled("dqn", {"dueling": True}, **CARTPOLE, agent=job.product)
    with pytest.raises(ValueError, match="space"):
        assembled("dqn", env="Acrobot-v1", steps=300, agent=job.product)


def test_a_network_with_memory_does_not_see_the_mask_of_legal_actions():
    from tests.moody import Moody

    env = partial(Moody, (5,), in_observation=True)
    job: Any = assembled("recurrent_dqn", {"learning_starts": 200}, env=env, steps=5_000)
    assert "action_mask" in job.source.buffer.observation_space.spaces
    assert "action_mask" not in str(job.learner.policy.spec)
    for _ in run(job.learner, job.source, 2, compile=False):
        pass
