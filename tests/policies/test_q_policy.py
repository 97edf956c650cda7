"""Heads of action values: their identities, their noise, masks and branches, against closed forms."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agentlib.backbones import MLP, from_spec
from agentlib.core.randomness import fresh_weights
from agentlib.policies import POLICIES, EpsilonGreedy, GreedyActor, QPolicy
from agentlib.policies.q_heads import NoisyLinear, QHead, noisy_weights, scaled

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hidden": {"hidden": (8,)},
    "dueling": {"dueling": True},
    "dueling, hidden": {"dueling": True, "hidden": (8, 6)},
    "c51": {"distributional": "c51", "n_atoms": 11, "v_min": -2.0, "v_max": 3.0},
    "quantile": {"distributional": "quantile", "n_atoms": 7},
    "noisy": {"noisy": True},
    "all": {"dueling": True, "distributional": "quantile", "n_atoms": 5, "noisy": True, "hidden": (8,)},
}
by_option = pytest.mark.parametrize("option", OPTIONS)
by_actions = pytest.mark.parametrize("n_actions", [3, [2, 4, 3]], ids=["one", "branches"])


def a_policy(option="plain", n_actions: Any = 3, seed=0):
    with fresh_weights(seed):
        return QPolicy(MLP(4, (16,)), n_actions, **OPTIONS[option]).eval()


class Echo(nn.Module):
    """A network with memory: features are the input and the sum of all inputs so far, since the episode's start."""

    is_sequence, feature_dim = True, 4

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2)

    def forward(self, observation, state=None, episode_start=None):
        total, features = self.initial_state(len(observation)) if state is None else state, []
        for t in range(observation.shape[1]):
            if episode_start is not None:
                total = total * ~episode_start[:, t, None]
            total = total + observation[:, t]
            features.append(torch.cat([observation[:, t], total], -1))
        return torch.stack(features, 1), total


@by_option
@by_actions
def test_outputs_values_and_actions_have_their_shapes(option, n_actions):
    policy, x = a_policy(option, n_actions), torch.randn(5, 4)
    total = 3 if n_actions == 3 else 9

    output, state = policy(x, "as it came")

    atoms = {"c51": (11,), "quantile": (7,), "all": (5,)}.get(option, ())
    assert output.shape == (5, total, *atoms)
    assert state == "as it came"
    assert policy.values(output).shape == (5, total)
    assert policy.choose(output).shape == ((5,) if n_actions == 3 else (5, 3))


@by_option
@by_actions
def test_the_spec_rebuilds_it_bit_for_bit(option, n_actions):
    policy, x = a_policy(option, n_actions), torch.randn(5, 4)
    again: Any = from_spec(policy.spec, POLICIES)
    again.load_state_dict(policy.state_dict())

    assert torch.equal(again.eval()(x)[0], policy(x)[0])
    assert again.spec == policy.spec


def test_a_plain_policy_has_one_linear_layer_as_its_head():
    assert isinstance(a_policy().head, nn.Linear)


@by_option
@by_actions
def test_over_a_network_with_memory_both_leading_axes_stay(option, n_actions):
    with fresh_weights(0):
        policy = QPolicy(Echo(), n_actions, **OPTIONS[option]).eval()
    x, start = torch.randn(6, 5, 2), torch.rand(6, 5) < 0.3

    output, last = policy(x, None, start)
    state, steps = policy.initial_state(6), []
    for t in range(5):
        one, state = policy(x[:, t : t + 1], state, start[:, t : t + 1])
        steps.append(one)

    assert policy.is_sequence
    torch.testing.assert_close(output, torch.cat(steps, 1))
    torch.testing.assert_close(last, state)
    assert policy.choose(output).shape == ((6, 5) if n_actions == 3 else (6, 5, 3))
    mask = torch.rand(6, 5, policy.values(output).shape[-1]) < 0.5
    mask[..., [0, 2, 6] if n_actions != 3 else [0]] = True
    chosen = policy.choose(output, mask)
    chosen = (chosen + policy.first_columns if policy.is_branched else chosen).reshape(6, 5, -1)
    assert mask.gather(-1, chosen).all()


# Dueling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_atoms", [None, 5])
@by_actions
def test_advantages_of_a_dueling_head_have_the_mean_zero(n_actions, n_atoms):
    """In each branch the mean over the actions is the state's value, of each atom."""
    branches = [3] if n_actions == 3 else n_actions
    head, features = QHead(8, branches, n_atoms, (6,), dueling=True), torch.randn(10, 8)
    assert head.value is not None

    values, state_value = head(features), head.value(features)  # (10, A, [n]), (10, n)

    for branch in values.split(branches, 1):
        torch.testing.assert_close(branch.mean(1), state_value if n_atoms else state_value[:, 0])


def test_a_dueling_head_is_the_sum_of_its_streams():
    head, features = QHead(8, [3], None, (), dueling=True), torch.randn(10, 8)
    assert head.value is not None
    value, advantage = head.value(features), head.advantages[0](features)

    best = advantage - advantage.mean(1, keepdim=True)

    torch.testing.assert_close(head(features), value + best)


# Noise ----------------------------------------------------------------------------------------------------------------


def test_noisy_outputs_have_the_mean_and_variance_of_the_closed_form():
    """E y = W x + b.  Var y_j = sum_i s_ji^2 x_i^2 (2 / pi) + t_j^2 sqrt(2 / pi), as E f(e)^2 = E|e| = sqrt(2 / pi)."""
    with fresh_weights(0):
        layer, x = NoisyLinear(6, 4), torch.randn(1, 6)
        with torch.no_grad():
            layer.weight_noise.uniform_(0.0, 1.0)
            layer.bias_noise.uniform_(0.0, 1.0)
            y = torch.vmap(layer, randomness="different")(x.expand(20_000, 6)).double()  # another draw for each
            mean = layer.weight @ x[0] + layer.bias
            weight_part = layer.weight_noise.square() @ x[0].square() * (2 / math.pi)
            variance = weight_part + layer.bias_noise.square() * math.sqrt(2 / math.pi)

    np.testing.assert_allclose(y.mean(0), mean, atol=4 * math.sqrt(float(variance.max()) / 20_000))
    np.testing.assert_allclose(y.var(0) / variance, np.ones(4), atol=0.08)


def test_noise_is_one_draw_for_a_batch_and_a_new_one_for_each_call():
    layer = NoisyLinear(6, 4)
    x = torch.randn(1, 6).expand(8, 6)

    with torch.random.fork_rng():
        first, second = layer(x), layer(x)

    torch.testing.assert_close(first, first[:1].expand(8, 4))
    assert not torch.allclose(first, second)


def test_noise_is_factorized():
    """All weights' noise is an outer product: the matrix has rank one."""
    layer, generator = NoisyLinear(6, 4, noise=1.0), np.random.default_rng(0)
    with torch.no_grad(), noisy_weights(layer, generator):
        matrix = (layer(torch.eye(6)) - layer(torch.zeros(1, 6))).T - layer.weight

    singular = torch.linalg.svdvals(matrix)
    assert singular[0] > 0.1
    assert singular[1] < 1e-5
    generator = np.random.default_rng(0)
    n_in, n_out = (scaled(torch.from_numpy(generator.standard_normal(n, np.float32))) for n in (6, 4))
    torch.testing.assert_close(matrix, layer.weight_noise.detach() * torch.outer(n_out, n_in))


def test_in_eval_mode_weights_are_their_means():
    layer, x = NoisyLinear(6, 4).eval(), torch.randn(3, 6)

    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


def test_initial_noise_is_that_of_the_paper():
    layer = NoisyLinear(25, 4, noise=0.5)

    assert (layer.weight_noise == 0.1).all()
    assert (layer.bias_noise == 0.1).all()
    assert layer.weight.abs().max() <= 0.2


def test_actors_draw_noise_of_their_own():
    """While learning, by a generator that a checkpoint keeps; an agent's own actor acts by the means."""
    policy, space = a_policy("noisy"), spaces.Box(-1, 1, (4,))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    noisy, again, other = (GreedyActor(policy, space, noise_seed=seed) for seed in (0, 0, 1))
    with torch.no_grad():
        for layer in policy.modules():
            if isinstance(layer, NoisyLinear):
                layer.weight_noise.fill_(1.0)
    host = torch.get_rng_state()

    actions = [noisy(x) for _ in range(3)]

    assert torch.equal(torch.get_rng_state(), host)
    assert any((a != b).any() for a, b in pairwise(actions))
    assert all(np.array_equal(again(x), a) for a in actions)
    assert any((other(x) != a).any() for a in actions)
    other.load_state(noisy.state())
    np.testing.assert_array_equal(other(x), noisy(x))
    greedy = policy.choose(policy(torch.from_numpy(x))[0])
    np.testing.assert_array_equal(GreedyActor(policy, space)(x), greedy)
    policy.train()
    np.testing.assert_array_equal(GreedyActor(policy, space)(x), greedy)
    assert policy.training


# Distributions --------------------------------------------------------------------------------------------------------


def test_values_are_the_means_of_the_distributions():
    c51, quantile = a_policy("c51"), a_policy("quantile")
    logits, quantiles = torch.randn(5, 3, 11), torch.randn(5, 3, 7)
    atoms = np.linspace(-2.0, 3.0, 11)
    probability = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)

    np.testing.assert_allclose(c51.values(logits), (probability * atoms).sum(-1), atol=1e-5)
    np.testing.assert_allclose(quantile.values(quantiles), quantiles.numpy().mean(-1), atol=1e-6)


# Masks and branches ---------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(data=st.data(), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_choice_is_the_best_legal_action_of_each_branch(data, sizes):
    policy = QPolicy(MLP(2, ()), sizes)
    numbers = data.draw(st.lists(st.integers(-3, 3), min_size=sum(sizes), max_size=sum(sizes)))
    legal = data.draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)))
    expected, start = [], 0
    for size in sizes:
        legal[start + data.draw(st.integers(0, size - 1))] = True
        options = [(numbers[start + i], -i) for i in range(size) if legal[start + i]]
        expected.append(-max(options)[1])
        start += size

    chosen = policy.choose(torch.tensor([numbers]).float(), torch.tensor([legal]))

    assert chosen.tolist() == [expected]
    columns = [int(sum(sizes[:i])) + a for i, a in enumerate(expected)]
    assert policy.pick(torch.arange(sum(sizes))[None].float(), chosen).tolist() == [columns]


def test_the_value_of_the_best_legal_action_has_finite_gradients():
    """Its gradient goes to that action alone, also where an illegal one is better; the illegal ones get exactly 0."""
    policy = QPolicy(MLP(2, ()), 3)
    output = torch.tensor([[3.0, 1.0, 2.0], [-5.0, -7.0, -6.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, True, False]])

    best = policy.pick(output, policy.choose(output, mask))
    goal = policy.backed_up(best, lambda value: 1.0 + 0.5 * value)

    assert best.tolist() == [2.0, -7.0]
    assert goal.tolist() == [2.0, -2.5]
    assert torch.autograd.grad(goal.sum(), output)[0].tolist() == [[0, 0, 0.5], [0, 0.5, 0]]
    assert policy.values(output) is output  # the mask has changed nothing in it
    assert policy.pick(output, policy.choose(output)).tolist() == [3.0, -5.0]


@pytest.mark.parametrize("option", ["c51", "quantile", "all"])
def test_the_distribution_of_the_best_legal_action_has_finite_gradients(option):
    policy = a_policy(option)
    output = torch.randn(4, 3, policy.n_atoms, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.ones(4, 3, dtype=torch.bool).scatter(1, policy.choose(output)[:, None], False)

    chosen = policy.choose(output, mask)
    goal = policy.backed_up(policy.pick(output, chosen), lambda value: 0.5 * value)
    values = policy.values(output).gather(1, chosen[:, None])[:, 0]

    second = policy.values(output).sort(1).values[:, 1]
    torch.testing.assert_close(values, second)
    weight = torch.linspace(1.0, 2.0, policy.n_atoms)  # the sum of probabilities has no gradient
    (slope,) = torch.autograd.grad((goal * weight).sum(), output)
    assert slope.isfinite().all()
    reached = slope.abs().sum(-1) > 0
    assert torch.equal(reached, torch.zeros(4, 3).scatter(1, chosen[:, None], 1.0).bool())


@by_option
def test_actors_obey_masks(option):
    policy, rng = a_policy(option), np.random.default_rng(0)
    x, mask = rng.normal(size=(50, 4)).astype(np.float32), rng.random((50, 3)) < 0.4
    mask[np.arange(50), rng.integers(3, size=50)] = True
    actor = GreedyActor(policy, spaces.Box(-1, 1, (4,)))

    together, apart = actor(x, mask), [actor(x[i : i + 1], mask[i : i + 1])[0] for i in range(50)]

    assert mask[np.arange(50), together].all()
    np.testing.assert_array_equal(together, apart)  # the second through numpy alone, where the policy is plain
    assert (actor(x) != together).any()


def test_exploration_of_several_components_is_uniform():
    exploration = EpsilonGreedy(spaces.MultiDiscrete([2, 3]), num_envs=4, epsilon=1.0)
    clock: Any = type("Clock", (), {"steps": 0})
    drawn = np.concatenate([exploration(lambda *_: np.empty(0), None, clock) for _ in range(1500)])

    counts = np.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=6) / len(drawn)
    np.testing.assert_allclose(counts, np.full(6, 1 / 6), atol=0.02)
    some = EpsilonGreedy(spaces.MultiDiscrete([2, 3]), num_envs=400, epsilon=0.5)
    actions = some(lambda *_: np.full((400, 2), 9), None, clock)
    assert ((actions == 9).all(1) | (actions < 9).all(1)).all()  # a random action is random as a whole
    assert 0.4 < (actions == 9).all(1).mean() < 0.6
    with pytest.raises(TypeError, match="Box"):
        EpsilonGreedy(spaces.Box(0, 1))
