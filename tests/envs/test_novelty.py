"""Pseudo-counts of observations that are counts, and a bonus that leads to a goal that chance does not find."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import agentlib
from agentlib.envs.novelty import PRIOR, Frequencies, NoveltyBonus, pseudo_count
from agentlib.learners import DQNConfig


def counted(model: Frequencies, x: Any) -> float:
    """N(x), and x is learned."""
    before = model.log_probability(x)
    model.learn(x)
    return pseudo_count(before, model.log_probability(x))


@pytest.mark.parametrize("start", [0, -3])
def test_the_pseudo_count_of_one_part_is_its_count_and_the_prior(start):
    model, generator = Frequencies(spaces.Discrete(5, start=start)), np.random.default_rng(0)
    seen: dict[int, int] = {}
    for x in generator.integers(5, size=200) + start:
        assert counted(model, x) == pytest.approx(seen.get(int(x), 0) + PRIOR, rel=1e-9)
        seen[int(x)] = seen.get(int(x), 0) + 1


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (spaces.MultiDiscrete([2, 3]), [[a, b] for a in range(2) for b in range(3)]),
        (spaces.MultiDiscrete([2, 3], start=[4, -1]), [[a, b] for a in (4, 5) for b in (-1, 0, 1)]),
        (spaces.MultiBinary(2), [[a, b] for a in range(2) for b in range(2)]),
        (spaces.Box(-1, 1, (2,)), [[a, b] for a in np.linspace(-1, 1, 8) for b in np.linspace(-0.9, 0.9, 8)]),
    ],
)
def test_probabilities_sum_to_one_and_are_frequencies(space, values):
    model = Frequencies(space)
    for x in values[:3]:
        model.learn(np.array(x))
    probabilities = [math.exp(model.log_probability(np.array(x))) for x in values]
    assert sum(probabilities) == pytest.approx(1.0)
    assert probabilities[0] > probabilities[-1]


def test_rare_images_have_small_counts():
    """So improbable that rho is 0 in floating point: N is by the ratio alone."""
    model, generator = Frequencies(spaces.Box(0, 255, (36, 36), np.uint8)), np.random.default_rng(0)
    usual, other = (generator.integers(256, size=(36, 36)).astype(np.uint8) for _ in range(2))
    counts = [counted(model, usual) for _ in range(50)]
    assert counts == sorted(counts)
    assert counts[0] < 1e-6
    assert math.exp(model.log_probability(other)) == 0.0
    assert counted(model, other) < 1e-6 < counts[-1]


def test_what_is_out_of_bounds_is_in_the_bin_at_that_end():
    model = Frequencies(spaces.Box(-1, 1, (2,)))
    model.learn(np.array([1e30, -np.inf]))
    assert model.log_probability(np.array([0.99, -0.99])) > model.log_probability(np.array([-0.99, 0.99]))


def test_nothing_learned_is_no_bonus():
    assert pseudo_count(-2.0, -2.0) == math.inf
    assert pseudo_count(-2.0, -3.0) == math.inf
    assert pseudo_count(-1e6, 0.0) == 0.0


def test_the_reward_grows_by_the_bonus_which_fades():
    env = NoveltyBonus(gymnasium.make("agentlib/Corridor-v0", n=3, forgiving=True), scale=0.5)
    env.reset(seed=0)
    bonuses: dict[int, list[float]] = {}
    for action in [0, 1] * 10:
        observation, reward, terminated, _, info = env.step(np.int64(action))
        assert reward == pytest.approx(float(terminated) + info["novelty_bonus"])
        bonuses.setdefault(int(observation), []).append(info["novelty_bonus"])
        if terminated:
            env.reset()
    for found in bonuses.values():
        assert found == pytest.approx([0.5 / math.sqrt(n + PRIOR + 0.01) for n in range(len(found))])


def test_spaces_that_have_no_frequencies():
    with pytest.raises(ValueError, match="the Box has none: give a model of your own"):
        Frequencies(spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(ValueError, match="frequencies are of Discrete, MultiDiscrete, MultiBinary or Box, not of Text"):
        Frequencies(spaces.Text(3))
    with pytest.raises(ValueError, match="bins must be a whole number from 2"):
        Frequencies(spaces.Box(0, 1, (2,)), bins=1)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), [(0.1, 1.0), (0.0, 0.0)])
def test_the_bonus_leads_where_chance_does_not(scale, expected):
    """A lock of 12 cells, of which chance opens one in 4,096 tries."""

    def corridor() -> Any:
        return gymnasium.make("agentlib/Corridor-v0", n=12)

    config = DQNConfig(
        learning_rate=1e-3, learning_starts=200, train_freq=2, target_update_interval=200, gamma=0.95, net_arch=(64,),
        exploration_fraction=0.1, exploration_final_eps=0.02,
    )  # fmt: skip
    agent: Any = agentlib.train(config, env=NoveltyBonus(corridor(), scale), steps=3_000, progress=False)
    assert agentlib.evaluate(agent, corridor, episodes=5).mean == expected
