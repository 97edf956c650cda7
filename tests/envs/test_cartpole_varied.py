"""CartPole with other dynamics, and the experts that balance it."""

import gymnasium
import numpy as np
import pytest

import agentlib.envs  # noqa: F401 - registers our environments
from agentlib.envs.cartpole_varied import FORCES, LENGTHS, balancing_expert, draw_dynamics

ENV_ID = "agentlib/CartPoleVaried-v0"


def played(expert, seeds=range(3), **dynamics):
    lengths = []
    for seed in seeds:
        env = gymnasium.make(ENV_ID, **dynamics)
        observation, _ = env.reset(seed=seed)
        ended, steps = False, 0
        while not ended:
            observation, _, terminated, truncated, _ = env.step(int(expert(observation)))
            ended, steps = terminated or truncated, steps + 1
        lengths.append(steps)
    return lengths


def test_without_arguments_it_is_cartpole():
    ours, theirs = gymnasium.make(ENV_ID), gymnasium.make("CartPole-v1")
    generator = np.random.default_rng(0)
    mine, other = ours.reset(seed=1), theirs.reset(seed=1)
    for _ in range(100):
        np.testing.assert_array_equal(mine[0], other[0])
        if len(mine) == 5 and mine[2]:
            break
        action = int(generator.integers(2))
        mine, other = ours.step(action), theirs.step(action)  # type: ignore[assignment]


def test_a_motor_the_other_way_round_mirrors_the_actions():
    ours, theirs = gymnasium.make(ENV_ID, force=-10.0), gymnasium.make("CartPole-v1")
    ours.reset(seed=1)
    theirs.reset(seed=1)
    for action in (0, 1, 1, 0, 1):
        np.testing.assert_array_equal(ours.step(1 - action)[0], theirs.step(action)[0])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("force", [FORCES[0], FORCES[1], -FORCES[0], -FORCES[1]])
def test_experts_balance_all_corners(length, force):
    assert played(balancing_expert(length, force), length=length, force=force) == [500] * 3


def test_nobody_elses_expert_balances_a_reversed_motor():
    assert max(played(balancing_expert(0.5, 10.0), length=0.5, force=-10.0)) < 50


def test_batches_and_single_observations():
    expert = balancing_expert()
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions = expert(observations)
    assert actions.shape == (5,)
    assert actions.dtype == np.int64
    assert [int(expert(observation)) for observation in observations] == actions.tolist()


def test_drawn_dynamics_fill_their_ranges():
    generator = np.random.default_rng(0)
    drawn = np.array([draw_dynamics(generator) for _ in range(500)])
    assert LENGTHS[0] <= drawn[:, 0].min() < LENGTHS[0] + 0.05
    assert LENGTHS[1] - 0.05 < drawn[:, 0].max() <= LENGTHS[1]
    assert FORCES[0] <= np.abs(drawn[:, 1]).min()
    assert np.abs(drawn[:, 1]).max() <= FORCES[1]
    assert 0.4 < (drawn[:, 1] > 0).mean() < 0.6


@pytest.mark.parametrize("dynamics", [{"length": 0.0}, {"force": 0.0}, {"length": -1.0}])
def test_dynamics_that_cannot_be(dynamics):
    with pytest.raises(ValueError, match="a length above 0 and the motor a force"):
        gymnasium.make(ENV_ID, **dynamics)
