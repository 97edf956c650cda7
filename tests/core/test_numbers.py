"""Whole numbers are accepted or refused by one rule, wherever they are given."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib import Agent
from agentlib.core.numbers import whole
from agentlib.data import Dataset, frames, split
from agentlib.data.batches import Batches
from agentlib.data.glyphs import draw_glyphs
from agentlib.data.toys import eight_gaussians
from agentlib.envs.experts import cartpole_expert
from agentlib.envs.making import make_env, make_envs
from agentlib.experience import record_episodes
from agentlib.learners.q_learning.watkins import TabularQConfig, q_learning
from agentlib.learners.robustness.alarm import DynamicsAlarm, Transitions, played
from agentlib.metrics import bootstrap_interval
from agentlib.policies import EpsilonGreedy
from tests.tiny import IDENTITY, tiny_run

GOOD = [3, np.int64(3), np.uint8(3), np.int16(3), np.array(3), torch.tensor(3)]
BAD = [True, np.True_, 3.0, np.float64(3), "3", None, Fraction(3), [3], -1]


@pytest.mark.parametrize("value", GOOD, ids=repr)
def test_whole_numbers(value):
    found = whole("seed", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_others(value):
    with pytest.raises(ValueError, match=r"^seed must be a whole number from 0, not "):
        whole("seed", value)


def test_bounds():
    assert whole("seed", 2**32 - 1, below=2**32) == 2**32 - 1
    with pytest.raises(ValueError, match="seed must be a whole number from 0 and below 4294967296, not 4294967296"):
        whole("seed", 2**32, below=2**32)


@pytest.fixture(scope="module")
def agent():
    return tiny_run(steps=30)


class Balancing:
    """CartPole's expert with `predict`."""

    def predict(self, observation, *_args, **_kwargs):
        return cartpole_expert(observation), None


MOVES = Transitions(
    np.zeros((20, 3), np.float32), np.arange(20) % 2, np.ones((20, 3), np.float32)
)  # of an alarm that is quickly made

CALLS: dict[str, Any] = {
    "episodes": lambda agent, n: agentlib.evaluate(agent, IDENTITY, episodes=n),
    "seed": lambda agent, n: agentlib.evaluate(agent, IDENTITY, episodes=1, seed=n),
    "episodes of a recording": lambda agent, n: record_episodes(cartpole_expert, "CartPole-v1", n),
    "seed of a recording": lambda agent, n: record_episodes(cartpole_expert, "CartPole-v1", 1, seed=n),
    "seed of an agent": lambda agent, n: Agent(agent.policy, agent.observation_space, agent.action_space, seed=n),
    "seed of a reset": lambda agent, n: agent.reset(n),
    "seed of a source": lambda agent, n: Batches(Dataset(torch.zeros(4, 2)), 2, seed=n),
    "seed of a split": lambda agent, n: split(Dataset(torch.zeros(40, 2)), n),
    "n": lambda agent, n: frames("agentlib/Catch-v0", n),
    "n_envs": lambda agent, n: make_envs("CartPole-v1", n).close(),
    "steps": lambda agent, n: tiny_run(steps=n, learning_starts=1),
    "n_envs of a run": lambda agent, n: tiny_run(steps=40, n_envs=n),
    "seed of a run": lambda agent, n: tiny_run(steps=40, seed=n),
    "n_eval_episodes": lambda agent, n: tiny_run(steps=40, n_eval_episodes=n),
    "max_steps": lambda agent, n: agentlib.evaluate(agent, IDENTITY, episodes=1, max_steps=n),
    "max_steps of a recording": lambda agent, n: record_episodes(cartpole_expert, "CartPole-v1", 1, max_steps=n),
    "steps of a table": lambda agent, n: q_learning(make_env(IDENTITY), TabularQConfig(), steps=n, seed=0),
    "seed of a table": lambda agent, n: q_learning(make_env(IDENTITY), TabularQConfig(), steps=5, seed=n),
    "steps of play": lambda agent, n: played(Balancing(), make_env("CartPole-v1"), n),
    "seed of play": lambda agent, n: played(Balancing(), make_env("CartPole-v1"), 5, seed=n),
    "n_actions of an alarm": lambda agent, n: DynamicsAlarm(MOVES, n, updates=1),
    "updates of an alarm": lambda agent, n: DynamicsAlarm(MOVES, 2, updates=n),
    "seed of an alarm": lambda agent, n: DynamicsAlarm(MOVES, 2, updates=1, seed=n),
    "n of an environment": lambda agent, n: make_env(IDENTITY, env_kwargs={"n": n}),
    "n of a corridor": lambda agent, n: make_env("agentlib/Corridor-v0", env_kwargs={"n": n}),
    "horizon": lambda agent, n: make_env("agentlib/Chain-v0", env_kwargs={"horizon": n}),
    "dials": lambda agent, n: make_env("agentlib/Dials-v0", env_kwargs={"dials": n}),
    "digits": lambda agent, n: make_env("agentlib/Dials-v0", env_kwargs={"digits": n}),
    "n of points": lambda agent, n: eight_gaussians(n),
    "seed of points": lambda agent, n: eight_gaussians(5, n),
    "classes": lambda agent, n: draw_glyphs(n, 1),
    "per_class": lambda agent, n: draw_glyphs(1, n),
    "seed of glyphs": lambda agent, n: draw_glyphs(1, 1, n),
    "seed of exploring": lambda agent, n: EpsilonGreedy(agent.action_space, seed=n),
    "seed of an interval": lambda agent, n: bootstrap_interval([1.0, 2.0], seed=n),
}


@pytest.mark.parametrize("name", CALLS)
def test_numpys_numbers_are_as_good_as_pythons_and_others_are_named(name, agent):
    steps = 8 if name == "steps" else 3
    CALLS[name](agent, np.int64(steps))
    for bad in (np.True_, 2.0, -1, "3"):
        with pytest.raises(ValueError, match=f"^{name.split()[0]} must be a whole number from"):
            CALLS[name](agent, bad)


def test_one_seed_gives_the_same_whatever_its_type(agent):
    seeds: list[Any] = GOOD
    returns = [agentlib.evaluate(agent, IDENTITY, episodes=2, seed=seed).returns for seed in seeds]
    assert all(np.array_equal(one, returns[0]) for one in returns)
