"""Learners take whatever an environment may show: every space of Gymnasium that holds numbers, nested."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings

import agentlib
from agentlib.experience import record_episodes
from tests.core.test_spaces import any_space

DQN = {"buffer_size": 60, "learning_starts": 10, "batch_size": 4, "net_arch": (8,)}
SEQUENCES = {"buffer_size": 60, "learning_starts": 16, "batch_size": 2}
WAYS: dict[str, dict[str, Any]] = {
    "dqn": DQN,
    "dqn, normalized, three steps, prioritized": DQN | {"normalize": True, "n_steps": 3, "prioritized": True},
    "rainbow": DQN | {"net_arch": None, "n_atoms": 5},
    "recurrent_dqn": SEQUENCES,
    "ppo": {"n_steps": 20, "batch_size": 10, "n_epochs": 2, "net_arch": (8,)},
    "a2c, normalized": {"net_arch": (8,), "vf_arch": (4, 4), "normalize": True},
    "bc": {"net_arch": (8,), "batch_size": 4},
    "dagger": {"rounds": 1, "epochs": 1, "rollout_round_min_timesteps": 20, "rollout_round_min_episodes": 1},
}


class Shows(gymnasium.Env):
    """Anything of a space; episodes of seven steps."""

    action_space = spaces.Discrete(3)

    def __init__(self, space: spaces.Space[Any], render_mode: None = None) -> None:
        self.observation_space, self.render_mode = space, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        return self.observation_space.sample(), float(action), self.count == 7, False, {}


class One:
    """An expert."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.ones(1, np.int64), None


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way in ("dqn", "rainbow") else ()) for way in WAYS]
)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(space=any_space)
def test_it_is_learned_from(way, space):
    what, env = way.split(",")[0], Shows(space)
    arguments: dict[str, Any] = {"env": env, "steps": 60}
    if what == "bc":
        arguments = {"demos": record_episodes(One(), env, 3), "steps": 3}
    if what == "dagger":
        arguments = {"env": env, "expert": One()}
    agent: Any = agentlib.train(what, progress=False, compile=False, **arguments, **WAYS[way])
    assert agent.act(space.sample()) in range(3)
