"""Many environments side by side: the same numbers as of few, from any vector environment."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agentlib
from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.core.trees import difference
from agentlib.engine import run
from agentlib.envs.making import make_env
from agentlib.envs.vector import Environments
from agentlib.experience import Replay, ReplayBuffer, replay
from agentlib.experience.rollout import Rollout
from agentlib.learners import PPO
from agentlib.policies import ActionNoise, ActorCritic, EpsilonGreedy, GreedyActor, QPolicy, policy_for


class Growing(gymnasium.Env[Any, Any]):
    """Rewards that no two steps share; episodes of 3 to 5 steps, cut off or ended by turns."""

    observation_space, action_space = spaces.Box(-10.0, 10.0, (2,)), spaces.Discrete(2)

    def __init__(self, number: int = 0, render_mode: None = None, large_at: int = 0) -> None:
        self.number, self.render_mode, self.large_at, self.episode, self.t = number, render_mode, large_at, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        done, reward = self.t == 3 + (self.episode + self.number) % 3, 0.1 * self.t + 0.37 * self.number + float(action)
        is_large = self.large_at == self.t and self.number == 1
        observation = np.array([self.t, action], np.float32)
        return observation, 2e6 if is_large else reward, done and self.episode % 2 == 0, done, {}


def trained(mode: AutoresetMode, updates: int) -> tuple[ActorCritic, dict[str, Any]]:
    with fresh_weights(0):
        networks = ActorCritic(policy_for(spaces.Discrete(2), MLP(2, (8,), "tanh")))
    envs = SyncVectorEnv([partial(Growing, number) for number in range(5)], autoreset_mode=mode)
    source = Rollout(envs, networks, n_steps=16, n_epochs=2, batch_size=20, normalize_reward=True)
    for _ in run(PPO(networks, agentlib.backbones.adam(1e-2)), source, updates, compile=False):
        pass
    return networks, source.collector.state()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_returns_and_lengths_are_the_same_by_lists_and_by_arrays(mode, monkeypatch):
    by_lists = trained(mode, 24)
    monkeypatch.setattr(replay, "FEW", 0)
    by_arrays = trained(mode, 24)
    assert difference(by_lists[0].state_dict(), by_arrays[0].state_dict()) is None
    assert difference(by_lists[1], by_arrays[1]) is None
    assert by_lists[1]["episodes"] > 30
    assert [type(number) for number in (*by_arrays[1]["returns"], *by_arrays[1]["lengths"])] == [
        type(number) for number in (*by_lists[1]["returns"], *by_lists[1]["lengths"])
    ]


@pytest.mark.parametrize("few", [0, 100])
def test_the_first_large_reward_of_many_environments_is_named(few, monkeypatch):
    monkeypatch.setattr(replay, "FEW", few)
    envs = SyncVectorEnv([partial(Growing, number, large_at=2) for number in range(3)])
    with pytest.warns(UserWarning, match=r"the reward 2e\+06 by step 6"):
        agentlib.train("dqn", env=envs, steps=30, learning_starts=9, train_freq=3, progress=False)


@pytest.mark.parametrize("kind", ["vector_entry_point", "sync"])
@pytest.mark.slow
def test_ppo_learns_in_a_vector_environment_as_it_is_given(kind):
    envs = gymnasium.make_vec("CartPole-v1", num_envs=64, vectorization_mode=kind)
    numbers: Any = {"n_steps": 16, "batch_size": 128, "n_epochs": 8, "learning_rate": 1e-3, "gae_lambda": 0.9}
    agent = agentlib.train("ppo", env=envs, steps=8_192, gamma=0.98, progress=False, **numbers)
    assert isinstance(agent, agentlib.Agent)
    assert agent.observation_space == envs.single_observation_space
    assert agentlib.evaluate(agent, episodes=20).mean > 150.0  # by three seeds 242 to 330; random play: 22
    envs.close()


class Both(SyncVectorEnv, gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """A vector environment that is an instance of `gymnasium.Env`, too, as EnvPool's are."""


def test_several_environments_that_pass_for_a_single_one_are_several():
    make = [partial(Growing, number) for number in range(3)]
    both, plain = Environments(Both(make)), Environments(SyncVectorEnv(make))
    assert both.num_envs == 3
    np.testing.assert_array_equal(both.reset(seed=0), plain.reset(seed=0))
    for _ in range(12):
        found, expected = both.step(np.ones(3, np.int64)), plain.step(np.ones(3, np.int64))
        for name in ("observation", "next_observation", "reward", "terminated", "truncated", "valid", "begun"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    with pytest.raises(ValueError, match=r"given as an id, a gymnasium\.Env or a factory, not Both"):
        make_env(Both(make))
    with pytest.raises(ValueError, match="max_steps is for single environments, not for Both"):
        agentlib.train("ppo", env=Both(make), max_steps=3, steps=64, progress=False)


@pytest.mark.parametrize("kind", ["vector_entry_point", "sync"])
def test_an_agent_of_a_vector_environment_is_evaluated_in_a_single_one(kind):
    """What it remembers of its environment are the arguments that a single one takes."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode=kind, sutton_barto_reward=True)
    agent: Any = agentlib.train("ppo", env=envs, steps=48, n_steps=16, batch_size=24, progress=False)
    envs.close()
    assert agent.about["env_kwargs"] == {"sutton_barto_reward": True}
    assert agentlib.evaluate(agent, episodes=2).mean in (-1.0, -0.5, 0.0)


@pytest.mark.parametrize("kind", ["EpsilonGreedy", "ActionNoise", "ReplayBuffer"])
def test_parts_for_another_number_of_environments_are_named(kind):
    """Their first step failed, which blamed the environment."""
    envs = SyncVectorEnv([Growing, Growing])
    seen, actions = envs.single_observation_space, envs.single_action_space
    buffer = ReplayBuffer(seen, actions, 100, num_envs=1 if kind == "ReplayBuffer" else 2)
    exploration: Any = EpsilonGreedy(actions, num_envs=1 if kind == "EpsilonGreedy" else 2)
    if kind == "ActionNoise":
        exploration = ActionNoise(spaces.Box(-1.0, 1.0, (1,)))
    with pytest.raises(ValueError, match=f"^{kind} has num_envs=1, but 2 environments act side by side: give it num_"):
        Replay(envs, GreedyActor(QPolicy(MLP(2, (8,)), 2), seen), buffer, exploration)
