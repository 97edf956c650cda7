"""Tabular methods against known values of Gymnasium's toy_text environments."""

import gymnasium
import numpy as np
import pytest

import agentlib.envs  # noqa: F401 (registers agentlib/Identity-v0)
from agentlib.learners.q_learning.tabular import (
    TabularMDP,
    greedy,
    policy_evaluation,
    policy_iteration,
    value_iteration,
)
from agentlib.learners.q_learning.watkins import TabularQConfig, q_learning


def mdp_of(env_id, **kwargs):
    return TabularMDP.from_env(gymnasium.make(env_id, **kwargs))


@pytest.mark.parametrize(
    ("env_id", "kwargs", "gamma", "expected"),
    [
        ("FrozenLake-v1", {}, 1.0, 14 / 17),
        ("FrozenLake-v1", {}, 0.99, 0.5420),
        ("FrozenLake-v1", {}, 0.95, 0.1805),
        ("FrozenLake-v1", {"map_name": "8x8"}, 0.99, 0.4146),
        ("CliffWalking-v1", {}, 1.0, -13.0),
        ("Taxi-v4", {}, 1.0, 7.93),
    ],
)
def test_optimal_values(env_id, kwargs, gamma, expected):
    mdp = mdp_of(env_id, **kwargs)
    by_value = value_iteration(mdp, gamma=gamma)
    by_policy = policy_iteration(mdp, gamma=gamma)
    assert mdp.start @ by_value.value == pytest.approx(expected, abs=5e-5)
    np.testing.assert_allclose(by_policy.value, by_value.value, atol=1e-7)
    # The policy that is returned earns what its value says.
    np.testing.assert_allclose(policy_evaluation(mdp, by_policy.policy, gamma=gamma), by_policy.value, atol=1e-12)


@pytest.mark.parametrize(
    ("map_name", "steps", "expected"), [("4x4", 100, 0.7442), ("8x8", 100, 0.6407), ("8x8", 200, 0.9132)]
)
def test_n_sweeps_give_the_best_success_in_n_steps(map_name, steps, expected):
    solution = value_iteration(mdp_of("FrozenLake-v1", map_name=map_name), gamma=1, tolerance=0, max_sweeps=steps)
    assert solution.iterations == steps
    assert solution.value[0] == pytest.approx(expected, abs=5e-5)


def test_policy_evaluation_exact_by_sweeps_and_by_sampling():
    env = gymnasium.make("FrozenLake-v1")
    mdp = TabularMDP.from_env(env)
    policy = policy_iteration(mdp, gamma=0.99).policy
    exact = policy_evaluation(mdp, policy, gamma=0.99)
    np.testing.assert_allclose(policy_evaluation(mdp, policy, gamma=0.99, tolerance=1e-12), exact, atol=1e-9)

    # Without the time limit, as the values know none.
    env, found = env.unwrapped, []
    state, _ = env.reset(seed=0)
    for _ in range(2000):
        discount, terminated = 1.0, False
        while not terminated:
            state, reward, terminated, _, _ = env.step(policy[state])
            discount *= 0.99
        found.append(float(reward) * discount / 0.99)
        state, _ = env.reset()
    assert np.mean(found) == pytest.approx(exact[0], abs=4 * np.std(found) / np.sqrt(len(found)))


def test_policy_evaluation_closed_form():
    """One state; action 0 pays 1 and goes on with probability 1/2, action 1 pays 0 and ends."""
    mdp = TabularMDP(np.array([[[0.5], [0.0]]]), np.array([[1.0, 0.0]]), np.ones(1))
    assert policy_evaluation(mdp, [0], gamma=1) == pytest.approx(2)
    assert policy_evaluation(mdp, [[0.5, 0.5]], gamma=0.8) == pytest.approx(0.5 / (1 - 0.8 * 0.25))
    assert policy_evaluation(mdp, [0], gamma=1, tolerance=0, max_sweeps=3) == pytest.approx(1.75)
    assert policy_iteration(mdp, gamma=1).policy == 0


def test_a_policy_that_never_ends_has_no_undiscounted_value():
    mdp = mdp_of("CliffWalking-v1")
    up = np.zeros(len(mdp.reward), np.int64)
    with pytest.raises(ValueError, match="never terminates"):
        policy_evaluation(mdp, up, gamma=1)
    assert policy_evaluation(mdp, up, gamma=0.9)[0] == pytest.approx(-10)


def test_ties_take_the_lowest_action_in_spite_of_rounding():
    assert greedy(np.array([[0.3, 0.1 + 0.2], [0.1 + 0.2, 0.3], [0.0, 1.0]])).tolist() == [0, 0, 1]


def test_refusals():
    with pytest.raises(TypeError, match="transition table"):
        TabularMDP.from_env(gymnasium.make("CartPole-v1"))
    with pytest.raises(TypeError, match="Discrete"):
        q_learning(gymnasium.make("CartPole-v1"), TabularQConfig(), steps=1, seed=0)


def test_q_learning_is_a_function_of_its_seed():
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    first, again, other = (q_learning(env, TabularQConfig(), steps=3000, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_q_learning_does_not_take_a_time_limit_for_an_end():
    """A reward of 1 for ever, cut at each step, is worth 1 / (1 - gamma); taken for an end, it would be worth 1."""
    env = gymnasium.make("agentlib/Identity-v0", n=2, max_episode_steps=1)
    q = q_learning(env, TabularQConfig(gamma=0.5), steps=3000, seed=0)
    assert q.max(axis=1) == pytest.approx([2, 2], abs=0.05)
    assert greedy(q).tolist() == [0, 1]


@pytest.mark.slow
def test_q_learning_finds_the_values_of_frozen_lake():
    env = gymnasium.make("FrozenLake-v1")
    found = [q_learning(env, TabularQConfig(), steps=60_000, seed=seed)[0].max() for seed in range(5)]
    assert abs(np.median(found) - 0.5420) < 0.05
