import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.learners.robustness.attacked import Attacked
from agentlib.policies import QPolicy


@pytest.fixture(scope="module")
def agent():
    """Pushes the cart to where the pole falls, which holds it up for a while: a linear policy."""
    policy = QPolicy(MLP(4, ()), 2)
    policy.head.load_state_dict(
        {"weight": torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.2, 5.0, 1.0]]), "bias": torch.zeros(2)}
    )
    env = gymnasium.make("CartPole-v1")
    return Agent(policy, env.observation_space, env.action_space)


def test_a_linear_policy_in_closed_form(agent):
    """The attack turns the action round exactly where |w.x| < eps sum |scale w|."""
    w, scale = np.array([0.0, 0.2, 5.0, 1.0]), np.array([1.0, 1.0, 0.1, 1.0])
    observation = np.random.default_rng(0).normal(scale=[0.5, 0.5, 0.05, 0.5], size=(200, 4)).astype(np.float32)
    before = agent.predict(observation, deterministic=True)[0]
    for epsilon in (0.1, 0.4):
        after = Attacked(agent, epsilon, scale=scale, steps=1).predict(observation, deterministic=True)[0]
        assert np.array_equal(before != after, np.abs(observation @ w) < epsilon * np.abs(scale * w).sum())


def test_the_attack_on_an_agent_names_its_loss_and_does_not_depend_on_the_scale_of_values(agent):
    observation = np.random.default_rng(0).normal(scale=[0.5, 0.5, 0.05, 0.5], size=(200, 4)).astype(np.float32)
    large = copy.deepcopy(agent)
    for parameter in large.policy.head.parameters():
        parameter.data *= 1e4
    seen, seen_large = (Attacked(one, 0.3, steps=3).observed(observation) for one in (agent, large))
    assert np.array_equal(seen, seen_large)
    assert Attacked(agent, 0.3).loss == "margin"
    weak = Attacked(large, 0.3, steps=3, loss="cross_entropy")
    assert weak.loss == "cross_entropy"
    plain = agent.predict(observation, deterministic=True)[0]
    turned = [float((one.predict(observation, deterministic=True)[0] != plain).mean())
              for one in (Attacked(large, 0.3, steps=3), weak)]  # fmt: skip
    assert turned[1] < 0.5 * turned[0]


@pytest.mark.slow
def test_returns_fall_under_attack_and_less_under_noise(agent):
    plain, noisy, attacked = (
        agentlib.evaluate(one, "CartPole-v1", episodes=8).mean
        for one in (agent, Attacked(agent, 0.1, noise=True, seed=1), Attacked(agent, 0.1, steps=3))
    )
    assert plain > noisy + 1 or plain > 400
    assert attacked < 0.5 * noisy
    assert agentlib.evaluate(Attacked(agent, 0.0), "CartPole-v1", episodes=8).mean == plain


def test_observations_stay_within_their_space(agent):
    box = spaces.Box(-1.0, 1.0, (4,))
    bounded = Attacked(Agent(agent.policy, box, agent.action_space), 0.5, steps=2)
    seen = bounded.observed(np.full(4, 0.9, np.float32))
    assert np.abs(seen).max() <= 1.0
    assert np.abs(seen - 0.9).max() <= 1.4


def test_agents_that_cannot_be_attacked(agent):
    images = spaces.Box(0, 255, (4,), np.uint8)
    with pytest.raises(TypeError, match="floating-point observations can be attacked"):
        Attacked(Agent(agent.policy, images, agent.action_space), 0.1)
