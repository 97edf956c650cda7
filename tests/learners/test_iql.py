"""Implicit Q-learning: the expectile, a problem of one step with a known answer, and an agent better than its data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import Demonstration, Demonstrations, RecordedTransitions, record_episodes
from agentlib.learners import IQL, IQLConfig, run
from agentlib.learners.actor_critic.iql import RECIPE, expectile_loss


def test_the_expectile_of_a_coin() -> None:
    """Of 0 and 1, equally likely: tau (1 - e) = (1 - tau) e, so e = tau."""
    outcomes = torch.tensor([0.0, 1.0])
    for expectile in (0.5, 0.7, 0.95):
        guesses = torch.linspace(0.0, 1.0, 1_001)
        losses = expectile_loss(outcomes[:, None] - guesses, expectile).mean(0)
        assert guesses[losses.argmin()] == pytest.approx(expectile, abs=2e-3)


def one_step(discrete: bool) -> Demonstrations:
    """Half of the actions give the reward 1, the others 0; the observation says which."""
    actions: Any = spaces.Discrete(2) if discrete else spaces.Box(-3.0, 3.0, (1,))
    demonstrations = Demonstrations(spaces.Box(-1, 1, (1,), np.float32), actions)
    for number in range(200):
        side, choice = (-1.0, 1.0)[number % 2], number // 2 % 2
        done = np.array([choice]) if discrete else np.array([[2.0 * choice - 1.0]], np.float32)
        reward = np.array([float((choice == 1) == (side > 0))])
        demonstrations.append(Demonstration(np.full((2, 1), side, np.float32), done, reward, terminated=True))
    return demonstrations


def test_the_losses_of_an_update() -> None:
    """With steps of no length every network stays: losses are those of the formulas, weights at most the largest."""
    config = IQLConfig(learning_rate=0.0, net_arch=(8,), beta=20.0, largest_weight=1.5, expectile=0.8)
    learner, source = RECIPE.tiny(IQL, config, 0, demos=one_step(discrete=True))
    batch = source.sample()
    with torch.no_grad():
        recorded = learner.target(batch.observation, batch.action).min(0).values
        advantage = recorded - learner.value(batch.observation)
        log_prob = learner.policy(batch.observation)[0].log_softmax(1).gather(1, batch.action[:, None])[:, 0]
        y = batch.reward + batch.discount * (1.0 - batch.terminated) * learner.value(batch.next_observation)
        errors = learner.critics(batch.observation, batch.action) - y
    weights = (20.0 * advantage).exp()
    assert (weights > 1.5).any()
    assert (weights < 1.5).any()
    found = learner.update(batch)
    expected = {
        "value_loss": (torch.where(advantage < 0.0, 0.2, 0.8) * advantage.square()).mean(),
        "actor_loss": -(weights.clamp(max=1.5) * log_prob).mean(),
        "critic_loss": errors.square().mean(1).sum(),
        "advantage": advantage.mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found.metrics[name], value, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(found.per_sample, errors.mean(0))


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "share"), [(0.0, 0.5), (1.0, np.e / (1.0 + np.e)), (3.0, np.e**3 / (1.0 + np.e**3))])
def test_one_step_has_the_values_and_the_policy_that_it_must(beta: float, share: float) -> None:
    """V is the expectile of the two rewards; the policy's odds are exp(beta) to 1."""
    config = IQLConfig(learning_rate=3e-3, net_arch=(32,), beta=beta, tau=0.05)
    learner, source = RECIPE.tiny(IQL, config, 0, demos=one_step(discrete=True))
    for _ in run(learner, source, 1_000, compile=False):
        pass
    observation = torch.tensor([[-1.0], [1.0]])
    values = learner.value(observation).detach()
    assert values.tolist() == pytest.approx([0.7, 0.7], abs=0.05)
    chances = learner.policy(observation)[0].softmax(1)
    assert chances[0, 0].item() == pytest.approx(share, abs=0.05)
    assert chances[1, 1].item() == pytest.approx(share, abs=0.05)
    critics = learner.critics(observation, torch.tensor([0, 0])).mean(0)
    assert critics.tolist() == pytest.approx([1.0, 0.0], abs=0.1)


@pytest.mark.slow
def test_real_valued_actions() -> None:
    config = IQLConfig(learning_rate=3e-3, net_arch=(32,), beta=10.0, tau=0.05)
    learner, source = RECIPE.tiny(IQL, config, 0, demos=one_step(discrete=False))
    for _ in run(learner, source, 1_000, compile=False):
        pass
    chosen = learner.policy.choose(learner.policy(torch.tensor([[-1.0], [1.0]]))[0])
    assert chosen.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=0.15)


def test_transitions_are_those_that_were_recorded() -> None:
    demonstrations = record_episodes(cartpole_expert, "CartPole-v1", episodes=3, noise=0.8)
    source = RecordedTransitions(demonstrations, batch_size=64)
    batch = source.sample()
    rows = np.concatenate([episode.observations[:-1] for episode in demonstrations])
    following = np.concatenate([episode.observations[1:] for episode in demonstrations])
    ends = np.concatenate([np.arange(len(e.rewards)) == len(e.rewards) - 1 for e in demonstrations])
    for seen, after, terminated in zip(batch.observation, batch.next_observation, batch.terminated, strict=True):
        index = int(np.abs(rows - seen.numpy()).sum(1).argmin())
        assert np.array_equal(rows[index], seen.numpy())
        assert np.array_equal(following[index], after.numpy())
        assert bool(terminated) == bool(ends[index])  # the pole fell
    with pytest.raises(ValueError, match="no steps"):
        RecordedTransitions(Demonstrations(spaces.Box(-1, 1, (1,)), spaces.Discrete(2)))


@pytest.mark.slow
def test_it_is_better_than_its_data() -> None:
    demonstrations = record_episodes(cartpole_expert, "CartPole-v1", episodes=100, noise=0.6, seed=1)
    agent: Any = agentlib.train("iql", demos=demonstrations, steps=3_000, net_arch=(64, 64), seed=0, progress=False)
    played = agentlib.evaluate(agent, "CartPole-v1", episodes=50)
    assert played.mean > 1.5 * demonstrations.returns.mean()
