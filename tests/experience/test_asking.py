"""Experts of every kind behind one call, and what they answer wrongly is named."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from agentlib.agent import Agent
from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.envs.experts import cartpole_expert
from agentlib.envs.vector import Environments
from agentlib.experience import Expert, Onlooker, record_episodes
from agentlib.experience.asking import TakeoverGate
from agentlib.policies import CategoricalPolicy
from agentlib.policies.student import Proposed

N = 3
OBSERVATIONS = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
START = np.zeros(N, bool)


def cartpoles(n=N):
    envs = Environments(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * n))
    envs.reset(seed=0)
    return envs


def an_agent():
    space = gymnasium.make("CartPole-v1").observation_space
    with fresh_weights(0):
        return Agent(CategoricalPolicy(MLP(4, (8,)), 2), space, spaces.Discrete(2))


class SB3Like:
    """What SB3's models have of their own, and nothing more."""

    def __init__(self, wrong=False):
        self.calls = []
        self.wrong = wrong

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.calls.append((len(observation), state, episode_start.tolist(), deterministic))
        return cartpole_expert(observation), (0 if state is None else state) + 1


@pytest.mark.parametrize("asked", [[True, False, True], [True] * 3, [False] * 3])
@pytest.mark.parametrize("kind", ["function", "agent", "sb3", "onlooker"])
def test_each_kind_answers_for_the_rows_that_are_asked(kind, asked):
    rules = {
        "function": cartpole_expert,
        "agent": an_agent(),
        "sb3": SB3Like(),
        "onlooker": Onlooker(lambda env, observation: int(cartpole_expert(observation))),
    }
    expected = an_agent().act(OBSERVATIONS) if kind == "agent" else cartpole_expert(OBSERVATIONS)

    answer = Expert(rules[kind], cartpoles())(OBSERVATIONS, np.array(asked), START)

    np.testing.assert_array_equal(answer, expected[asked])
    assert answer.dtype == np.int64


def test_a_function_is_asked_only_about_the_rows():
    seen = []

    def expert(observation):
        seen.append(observation)
        return cartpole_expert(observation)

    ask = Expert(expert, cartpoles())
    ask(OBSERVATIONS, np.array([False, True, False]), START)
    ask(OBSERVATIONS, START, START)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], OBSERVATIONS[1:2])


def test_a_model_with_memory_sees_every_step_and_every_start():
    model = SB3Like()
    ask = Expert(model, cartpoles())
    ask(OBSERVATIONS, START, ~START)
    ask(OBSERVATIONS, np.array([True, False, False]), START)
    assert model.calls == [(3, None, [True] * 3, True), (3, 1, [False] * 3, True)]


def test_an_onlooker_sees_the_environment_itself():
    envs = cartpoles()
    states = [world.unwrapped.state for world in envs.env.envs]
    seen = []

    def look(env, observation):
        seen.append(env.unwrapped.state)
        return 0

    Expert(Onlooker(look), envs)(OBSERVATIONS, np.array([True, False, True]), START)
    np.testing.assert_array_equal(seen, [states[0], states[2]])


def test_environments_in_other_processes_cannot_be_looked_into():
    envs = Environments(AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2))
    try:
        with pytest.raises(TypeError, match="SyncVectorEnv"):
            Expert(Onlooker(lambda env, observation: 0), envs)
    finally:
        envs.close()


WRONG = [
    (lambda o: np.full(len(o), 2), ValueError, r"action 2, at index 0, is not in Discrete\(2\)"),
    (lambda o: np.arange(len(o)) - 1, ValueError, "action -1, at index 0"),
    (lambda o: np.zeros(len(o)), TypeError, "actions of dtype float64"),
    (lambda o: ["left"] * len(o), TypeError, "actions of dtype <U4"),
    (lambda o: np.zeros((len(o), 1), int), ValueError, r"actions of shape \(3, 1\)"),
    (lambda o: np.zeros(len(o) + 1, int), ValueError, "4 actions for 3 observations.*Onlooker"),
    (lambda o: 1, ValueError, "actions of shape .*takes a batch of observations; wrap one"),
]


@pytest.mark.parametrize(("expert", "error", "message"), WRONG)
def test_what_is_wrong_with_an_answer(expert, error, message):
    with pytest.raises(error, match=message):
        Expert(expert, cartpoles())(OBSERVATIONS, ~START, START)


def test_what_is_no_expert():
    with pytest.raises(TypeError, match="an expert is a function of a batch"):
        Expert(3, cartpoles())
    envs = Environments(gymnasium.make("MountainCar-v0"))
    with pytest.raises(ValueError, match=r"expert's observation space is Box.*\(4,\).*environment's is Box.*\(2,\)"):
        Expert(an_agent(), envs)


def test_a_program_takes_over_where_it_would_do_something_else():
    envs = cartpoles()
    right = cartpole_expert(OBSERVATIONS)
    proposed = Proposed(np.array([right[0], 1 - right[1], right[2]]), torch.zeros(3))
    assert TakeoverGate(cartpole_expert, envs)(OBSERVATIONS, proposed).tolist() == [False, True, False]


def test_real_numbers_count_as_equal_within_a_tolerance():
    envs = Environments(gymnasium.make("Pendulum-v1"))
    envs.reset(seed=0)
    gate = TakeoverGate(lambda o: np.zeros((len(o), 1), np.float32), envs, tolerance=0.1)
    observation = np.zeros((3, 3), np.float32)
    proposed = Proposed(np.array([[0.3], [0.5], [-2.0]], np.float32), torch.zeros(3))  # the bounds are -2 and 2
    assert gate(observation, proposed).tolist() == [False, True, True]


# Recording -----------------------------------------------------------------------------------------------------------


def test_recorded_episodes_are_those_of_the_environment():
    found = record_episodes(cartpole_expert, "CartPole-v1", 2, seed=3)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=3)
    seeds = np.random.default_rng(3)  # of the later episodes
    for episode in found:
        for t in range(500):
            np.testing.assert_array_equal(episode.observations[t], observation)
            assert episode.actions[t] == cartpole_expert(observation) == np.asarray(episode.labels)[t]
            observation, reward, terminated, truncated, _ = env.step(episode.actions[t])
            assert reward == episode.rewards[t]
        np.testing.assert_array_equal(episode.observations[500], observation)
        assert (terminated, truncated, episode.terminated, len(episode.rewards)) == (False, True, False, 500)
        observation, _ = env.reset(seed=int(seeds.integers(2**30)))
    assert found.env_id == "CartPole-v1"
    assert not found.column("intervention").any()


@pytest.mark.slow
def test_noise_changes_what_is_done_and_not_what_is_labelled():
    found = record_episodes(cartpole_expert, "CartPole-v1", 20, noise=0.4, seed=0)
    observed = np.concatenate([episode.observations[:-1] for episode in found])
    labels, actions = (np.concatenate([getattr(e, name) for e in found]) for name in ("labels", "actions"))

    np.testing.assert_array_equal(labels, cartpole_expert(observed))
    assert abs((labels != actions).mean() - 0.2) < 0.03  # half of the random actions are the expert's by chance
    again = record_episodes(cartpole_expert, "CartPole-v1", 20, noise=0.4, seed=0)
    np.testing.assert_array_equal(again.column("action"), found.column("action"))
    other = record_episodes(cartpole_expert, "CartPole-v1", 20, noise=0.4, seed=1)
    assert not np.array_equal(other.column("action")[:100], found.column("action")[:100])


def test_the_callers_action_space_draws_nothing():
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(5)
    before = env.action_space.np_random.bit_generator.state
    record_episodes(cartpole_expert, env, 1, noise=0.5)
    assert env.action_space.np_random.bit_generator.state == before


def test_a_wrong_answer_while_recording_names_episode_and_step():
    def expert(observation):
        return cartpole_expert(observation) + 5 * (abs(observation[..., 0]) > 0.05)

    with pytest.raises(ValueError, match=r"the expert, episode 0, step \d+: action [56], at index 0, is not in"):
        record_episodes(expert, "CartPole-v1", 2)
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        record_episodes(cartpole_expert, "CartPole-v1", 1, noise=2)
    with pytest.raises(ValueError, match="whole number from 1, not 0"):
        record_episodes(cartpole_expert, "CartPole-v1", 0)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "FrozenLake-v1", "Blackjack-v1", "agentlib/Catch-v0"])
def test_any_environment_is_recorded(env_id):
    env = gymnasium.make(env_id)
    env.action_space.seed(0)
    found = record_episodes(Onlooker(lambda env, observation: env.action_space.sample()), env_id, 2)
    assert len(found) == 2
    found.check_spaces(env.observation_space, env.action_space)


def test_sb3_models_are_experts():
    from stable_baselines3 import DQN as Theirs

    from agentlib.core.host import global_generators_kept

    with global_generators_kept():
        model = Theirs("MlpPolicy", gymnasium.make("CartPole-v1"), seed=0)
        found = record_episodes(model, "CartPole-v1", 2)
        seen = np.concatenate([episode.observations[:-1] for episode in found])
        np.testing.assert_array_equal(found.column("label"), model.predict(seen, deterministic=True)[0])
