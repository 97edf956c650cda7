"""Noise on real-valued actions that drifts: Stable-Baselines3's, by the same normals."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import agentlib
from agentlib.core import Clock
from agentlib.envs.vector import Environments
from agentlib.experience import Replay, ReplayBuffer
from agentlib.policies import ActionNoise

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
MIDDLE, HALF = np.array([0.0, 5.0], np.float32), np.array([2.0, 5.0], np.float32)


def middle(observation: Any) -> Any:
    return np.tile(MIDDLE, (3, 1))


def test_the_drift_is_stable_baselines3s(monkeypatch: pytest.MonkeyPatch) -> None:
    noises = pytest.importorskip("stable_baselines3.common.noise")
    ours = ActionNoise(BOX, 3, noise=0.3, random_steps=5, seed=1, kind="ornstein-uhlenbeck")
    single = noises.OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.3))
    theirs = noises.VectorizedActionNoise(single, 3)
    generator = np.random.default_rng([1, 1])
    for _ in range(2):  # warming up
        ours(middle, None, Clock(0, 0, 0.0))
        generator.uniform(BOX.low, BOX.high, (3, 2))
    for step in range(100):
        normals = iter(generator.standard_normal((3, 2)))
        monkeypatch.setattr(np.random, "normal", lambda size, rows=normals: next(rows))
        expected = MIDDLE + HALF * theirs()
        assert ours(middle, None, Clock(0, 5, 0.0)) == pytest.approx(expected, abs=1e-6)
        if step == 50:
            ours.begin(np.array([False, True, False]))
            theirs.reset([1])
    assert np.abs(ours.drift).max() > 0.1


def test_it_starts_again_with_each_episode_and_is_saved() -> None:
    class Short(gymnasium.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), BOX

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.count = 0
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            self.count += 1
            return np.zeros(1, np.float32), 0.0, False, self.count == 5, {}

    envs = Environments(Short())
    noise = ActionNoise(BOX, noise=0.5, kind="ornstein-uhlenbeck")
    source = Replay(
        envs, lambda seen: MIDDLE[None], ReplayBuffer(envs.observation_space, BOX, 100), noise, train_freq=1
    )
    ended = []
    for _ in range(15):
        source.collect()
        ended.append(not noise.drift.any())
    assert ended == ([False] * 4 + [True]) * 3
    source.collect()
    state = source.collector.state()["exploration"]
    first = noise(lambda seen: MIDDLE[None], None, Clock(0, 9, 0.0))
    other = ActionNoise(BOX, noise=0.5, kind="ornstein-uhlenbeck", seed=7)
    other.load_state(state)
    assert np.array_equal(other(lambda seen: MIDDLE[None], None, Clock(0, 9, 0.0)), first)


def test_it_is_an_option_of_td3() -> None:
    settings: Any = {"net_arch": (8,), "learning_starts": 20, "batch_size": 8, "progress": False}
    runs = []
    for kind in ("normal", "ornstein-uhlenbeck"):
        agent: Any = agentlib.train("td3", env="Pendulum-v1", steps=60, action_noise_kind=kind, **settings)
        runs.append(agent.act(np.ones(3, np.float32)))
    assert not np.array_equal(*runs)
