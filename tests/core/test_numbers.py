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
from agentlib.envs.experts import cartpole_expert
from agentlib.envs.making import make_envs
from agentlib.experience import record_episodes
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
