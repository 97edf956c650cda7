"""Rules for distributions of returns, against the papers' loops and against closed forms."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import QPolicy
from agentlib.policies.value_losses import c51_projection, cross_entropy, entropy, quantile_huber_loss

floats = st.floats(-4.0, 4.0, allow_nan=False, width=32)


def algorithm_1(probability, reward, scale, v_min, v_max):
    """The categorical algorithm of Bellemare et al. 2017, line by line."""
    n = len(probability)
    z, spacing = np.linspace(v_min, v_max, n), (v_max - v_min) / (n - 1)
    m = np.zeros(n)
    for j in range(n):
        b = (min(max(reward + scale * z[j], v_min), v_max) - v_min) / spacing
        lower, upper = int(np.floor(b)), int(np.ceil(b))
        if lower == upper:
            m[lower] += probability[j]
        else:
            m[lower] += probability[j] * (upper - b)
            m[upper] += probability[j] * (b - lower)
    return m


@settings(deadline=None, derandomize=True)
@given(n=st.integers(2, 12), reward=floats, scale=st.floats(0, 1, width=32), seed=st.integers(0, 1000))
def test_the_projection_is_the_papers(n, reward, scale, seed):
    probability = np.random.default_rng(seed).dirichlet(np.full(n, 0.5))
    support = torch.linspace(-2.0, 3.0, n, dtype=torch.float64)

    found = c51_projection(torch.from_numpy(probability), reward + scale * support, support)

    np.testing.assert_allclose(found, algorithm_1(probability, reward, scale, -2.0, 3.0), atol=1e-9)


@settings(deadline=None, derandomize=True)
@given(n=st.integers(2, 60), seed=st.integers(0, 1000), shape=st.sampled_from([(), (3,), (2, 3)]))
def test_the_projection_keeps_mass_and_mean(n, seed, shape):
    rng = np.random.default_rng(seed)
    probability = torch.from_numpy(rng.dirichlet(np.ones(n), shape))
    inside = torch.from_numpy(rng.uniform(-2.0, 3.0, (*shape, n)))
    support = torch.linspace(-2.0, 3.0, n, dtype=torch.float64)

    found = c51_projection(probability, inside, support)

    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(shape, dtype=torch.float64))
    torch.testing.assert_close((found * support).sum(-1), (probability * inside).sum(-1))


def test_what_lies_outside_goes_to_the_ends():
    support = torch.linspace(0.0, 1.0, 3)

    found = c51_projection(torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-9.0, 0.5, 9.0]), support)

    torch.testing.assert_close(found, torch.tensor([0.2, 0.3, 0.5]))


def test_cross_entropy_is_least_at_the_goal_where_it_is_the_entropy():
    goal = torch.tensor([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    logits = goal.clamp_min(1e-30).log()

    torch.testing.assert_close(entropy(goal), torch.tensor([0.5623351, 0.0]))
    torch.testing.assert_close(cross_entropy(logits, goal), entropy(goal))
    assert (cross_entropy(torch.randn(2, 3), goal) > entropy(goal)).all()


@settings(deadline=None, derandomize=True)
@given(quantiles=st.lists(floats, min_size=1, max_size=6), samples=st.lists(floats, min_size=1, max_size=6))
def test_the_quantile_huber_loss_is_its_double_sum(quantiles, samples):
    n, total = len(quantiles), 0.0
    for i, q in enumerate(quantiles):
        for y in samples:
            u = y - q
            huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
            total += abs((i + 0.5) / n - (u < 0)) * huber / len(samples)

    found = quantile_huber_loss(torch.tensor(quantiles), torch.tensor(samples))

    assert found.item() == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_the_quantile_loss_is_least_at_the_quantiles():
    """For wide spreads Huber is nearly the absolute value: quartile midpoints of 0 .. 999 are 125, 375, 625, 875."""
    quantile = torch.full((4,), 500.0, requires_grad=True)
    samples = torch.arange(1000.0)
    optimizer = torch.optim.Adam([quantile], lr=5.0)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 5.0 * (1 - step / 1500)
        optimizer.zero_grad()
        quantile_huber_loss(quantile, samples).backward()
        optimizer.step()

    torch.testing.assert_close(quantile.detach(), torch.tensor([125.0, 375.0, 625.0, 875.0]), atol=3.0, rtol=0)


def policy_of(kind, n_actions, n_atoms=5):
    with fresh_weights(0):
        return QPolicy(MLP(2, ()), n_actions, distributional=kind, n_atoms=n_atoms, v_min=-1.0, v_max=3.0)


def losses_of(policy, chosen, next_output, *rewards):
    return policy.losses(chosen, policy.backed_up(next_output, partial(td_target, *rewards)))


@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_losses_are_those_of_one_transition_at_a_time(kind):
    policy = policy_of(kind, 3)
    chosen, next_output = torch.randn(2, 6, 5)
    reward, discount = torch.randn(6), torch.rand(6)
    terminated = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])

    losses, errors = losses_of(policy, chosen, next_output, reward, discount, terminated)

    for i in range(6):
        scale = float(discount[i] * (1 - terminated[i]))
        if kind == "quantile":
            expected = quantile_huber_loss(chosen[i], reward[i] + scale * next_output[i])
            error = expected
        else:
            goal = algorithm_1(next_output[i].softmax(-1).numpy(), float(reward[i]), scale, -1.0, 3.0)
            expected = -(torch.from_numpy(goal) * chosen[i].double().log_softmax(-1)).sum()
            error = expected + (goal[goal > 0] * np.log(goal[goal > 0])).sum()
        assert losses[i].item() == pytest.approx(expected.item(), abs=1e-5)
        assert errors[i].item() == pytest.approx(error.item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_a_priority_of_c51_is_zero_where_the_goal_is_met(kind):
    """The divergence of a distribution from itself; for quantiles, a single point."""
    policy, one = policy_of(kind, 3), torch.ones(1)
    output = torch.randn(1, 5) if kind == "c51" else torch.full((1, 5), 0.7)

    _, errors = losses_of(policy, output, output, 0 * one, one, 0 * one)

    assert errors.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["c51", "quantile"])
def test_branches_learn_from_the_mean_of_their_returns(kind):
    """One goal for all: the expected return of the goal is the mean over the branches."""
    policy = policy_of(kind, [3, 4])
    chosen, next_output = torch.randn(2, 6, 2, 5)
    zero, one = torch.zeros(6), torch.ones(6)

    losses, errors = losses_of(policy, chosen, next_output, zero, one, zero)

    if kind == "quantile":
        goal = next_output.mean(1)
        expected = torch.stack([quantile_huber_loss(chosen[:, d], goal) for d in range(2)], 1)
    else:
        goal = next_output.softmax(-1).mean(1)
        expected = torch.stack([cross_entropy(chosen[:, d], goal) for d in range(2)], 1)
    torch.testing.assert_close(losses, expected.mean(1))
    least = entropy(goal)[:, None] if kind == "c51" else 0.0
    torch.testing.assert_close(errors, (expected - least).mean(1))
    torch.testing.assert_close(
        policy.values(next_output).mean(1), goal.mean(-1) if kind == "quantile" else goal @ policy.support
    )
