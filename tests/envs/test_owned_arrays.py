"""Environments that write all they give into the same arrays, as many simulators do; and into what they are given."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from agentlib.core import Clock
from agentlib.data import frames
from agentlib.envs.subprocesses import Subprocesses
from agentlib.envs.vector import Environments
from agentlib.experience import Aggregate, ReplayBuffer, record_episodes
from agentlib.experience.replay import Collector
from agentlib.learners.q_learning.watkins import TabularQConfig, q_learning
from agentlib.learners.robustness.alarm import played
from agentlib.policies.student import Proposed
from tests.tiny import tiny_run

ONE_HOT = np.eye(3, dtype=bool)


class Owner(gymnasium.Env):
    """Episodes of two steps that count 0, 4, 5, reset included; reward, flags and mask lie in arrays, too.

    Args:
        shape: of the observation.
        ending: "terminated" or "truncated".
    """

    action_space: Any = spaces.Discrete(3)

    def __init__(self, shape: tuple[int, ...] = (1,), ending: str = "terminated", render_mode: None = None) -> None:
        self.observation_space: Any = spaces.Box(0, 9, shape)
        self.array, self.reward, self.ending = np.zeros(shape, np.float32), np.zeros(()), ending
        self.flags, self.mask = {"terminated": np.zeros((), bool), "truncated": np.zeros((), bool)}, np.ones(3, bool)
        self.info = {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.array[...], self.reward[...] = 0, 0.0, 0.0
        self.flags["terminated"][...] = self.flags["truncated"][...] = False
        self.mask[:] = ONE_HOT[0]
        return self.array, self.info

    def step(self, action):
        self.t += 1
        self.array[...], self.reward[...], self.mask[:] = 3 + self.t, 10.0 * self.t, ONE_HOT[self.t]
        self.flags[self.ending][...] = self.t == 2
        return self.array, self.reward, self.flags["terminated"], self.flags["truncated"], self.info


def truncating() -> Owner:
    return Owner(ending="truncated")


MAKE: dict[str, Any] = {
    "single": truncating,
    "same step": lambda: SyncVectorEnv([truncating] * 2, autoreset_mode=AutoresetMode.SAME_STEP),
    "disabled": lambda: SyncVectorEnv([truncating] * 2, copy=False, autoreset_mode=AutoresetMode.DISABLED),
    "sb3": lambda: DummyVecEnv([truncating] * 2),
    "wrapped": lambda: gymnasium.wrappers.vector.RecordEpisodeStatistics(MAKE["same step"]()),
    "processes": lambda: Subprocesses(Owner, 2, env_kwargs={"ending": "truncated"}),
}


@pytest.mark.parametrize("kind", [*list(MAKE)[:-1], pytest.param("processes", marks=pytest.mark.slow)])
def test_a_final_step_stays_as_it_was_though_the_reset_writes_into_its_arrays(kind):
    envs = Environments(MAKE[kind]())
    inner = list(getattr(envs.env.unwrapped, "envs", []))
    try:
        envs.reset(seed=0)
        for _ in range(3):
            first = envs.step(np.zeros(envs.num_envs, int))
            assert (first.next_observation.ravel() == 4).all()
            second = envs.step(np.ones(envs.num_envs, int))
            assert (second.next_observation.ravel() == 5).all()
            assert (second.observation.ravel() == 0).all()
            assert (second.reward == 20).all()
            assert second.truncated.all()
            assert not second.terminated.any()
            assert second.next_mask is not None
            assert (second.next_mask == ONE_HOT[2]).all()
            assert envs.action_mask is not None
            assert (envs.action_mask == ONE_HOT[0]).all()
        assert all(one is other for one, other in zip(inner, getattr(envs.env.unwrapped, "envs", []), strict=True))
    finally:
        envs.close()


def test_the_next_step_mode_of_processes_needs_no_copy():
    envs = Environments(AsyncVectorEnv([Owner] * 2, autoreset_mode=AutoresetMode.NEXT_STEP))
    try:
        envs.reset(seed=0)
        seen = [envs.step(np.full(2, t % 3)).next_observation.ravel().tolist() for t in range(4)]
    finally:
        envs.close()
    assert seen == [[4, 4], [5, 5], [0, 0], [4, 4]]


def test_replay_holds_what_was_seen():
    env = Owner()
    envs, buffer = Environments(env), ReplayBuffer(env.observation_space, env.action_space, 64)
    collector = Collector(envs, buffer, None, lambda actor, observation, clock, mask: mask.argmax(1))
    collector.reset(seed=0)
    for _ in range(8):
        collector.step(Clock(0, 0, 0.0))
    buffer.flush()
    batch = buffer.gather(torch.arange(8), gamma=0.9)
    assert batch.observation.ravel().tolist() == [0, 4] * 4
    assert batch.next_observation.ravel().tolist() == [4, 5] * 4
    assert batch.reward.tolist() == [10, 20] * 4
    assert batch.terminated.tolist() == [0, 1] * 4


@pytest.mark.slow
def test_values_are_right():
    """With discount .9 and rewards 10 and 20 the values before the two steps are 28 and 20."""
    agent = tiny_run(env=Owner(), steps=2000, gamma=0.9, learning_rate=3e-3, train_freq=1, target_update_interval=20)
    values, _ = agent.policy(torch.tensor([[0.0], [4.0]]))
    assert values[0, 0].item() == pytest.approx(28, abs=1.5)
    assert values[1, 1].item() == pytest.approx(20, abs=1.5)


def legal(observation: Any) -> Any:
    return np.where(observation[:, 0] == 0, 0, 1)


def test_recorded_episodes_and_those_of_dagger():
    found = record_episodes(legal, Owner(), 3)

    def student(observation, begun):
        return Proposed(legal(observation), torch.zeros(1))

    aggregate = Aggregate(Owner(), student, legal, rounds=1, round_episodes=3, round_steps=1)
    aggregate.collect()
    for demonstrations in (found, aggregate.demonstrations):
        for episode in demonstrations:
            assert episode.observations.ravel().tolist() == [0, 4, 5]
            assert episode.rewards.tolist() == [10, 20]
            assert episode.terminated


def test_frames_transitions_and_tables():
    assert frames(Owner, 4, window=2).x.flatten(1).tolist() == [[0, 4]] * 4
    transitions = played(tiny_run(env=Owner(), steps=60), Owner(), 6)
    assert transitions.observation.ravel().tolist() == [0, 4] * 3
    assert transitions.next_observation.ravel().tolist() == [4, 5] * 3

    class Numbers(gymnasium.ObservationWrapper):
        """The observation as one number, in an array of its own."""

        def observation(self, observation):
            self.state = getattr(self, "state", np.zeros((), np.int64))
            self.state[...] = observation[0]
            return self.state

    env = Numbers(Owner())
    env.observation_space = spaces.Discrete(6)
    q = q_learning(env, TabularQConfig(gamma=0.9), steps=400, seed=0)
    assert q[0].max() == pytest.approx(28, abs=0.5)
    assert q[4].max() == pytest.approx(20, abs=0.1)


class Spoiler(gymnasium.Env):
    """Rewards the first number of its action, and then sets the action to 0."""

    observation_space = spaces.Box(0, 1, (1,))

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        reward = float(action[0])
        action[:] = 0
        return np.zeros(1, np.float32), reward, self.t == 5, False, {}


@pytest.mark.parametrize("action_space", [spaces.Box(0, 9, (2,)), spaces.MultiDiscrete([9, 9])], ids=["box", "choices"])
@pytest.mark.parametrize("kind", ["single", "vector", "sb3"])
def test_actions_that_the_environment_changes_are_stored_as_they_were(kind, action_space):
    make: Any = {
        "single": lambda: Spoiler(action_space),
        "vector": lambda: SyncVectorEnv([lambda: Spoiler(action_space)] * 2, autoreset_mode=AutoresetMode.DISABLED),
        "sb3": lambda: DummyVecEnv([lambda: Spoiler(action_space)] * 2),
    }[kind]
    envs = Environments(make())
    buffer = ReplayBuffer(envs.observation_space, action_space, 100, num_envs=envs.num_envs)
    dice = np.random.default_rng(0)

    def act(actor, observation, clock):
        return dice.integers(1, 9, (envs.num_envs, 2)).astype(action_space.dtype)

    collector = Collector(envs, buffer, None, act)
    collector.reset(seed=0)
    for _ in range(12):
        collector.step(Clock(0, 0, 0.0))
    buffer.flush()
    with torch.random.fork_rng():
        batch = buffer.gather(buffer.draw(200)[0].unique())
    assert torch.equal(batch.action[:, 0].float(), batch.reward)
    assert (batch.action > 0).all()
    state = envs.state()
    again = Environments(make())
    assert again.load_state(state) is not None  # played again with the actions as they were
    if kind == "single":
        found = record_episodes(lambda observation: np.full((1, 2), 7, action_space.dtype), make(), 1)
        assert found.column("action").tolist() == found.column("label").tolist() == [[7, 7]] * 5
