"""MAML: closed forms on parabolas, equality with unrolled autograd, and what it learns."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data.episodes import Episodes, Pairs, Sinusoids
from agentlib.engine import run
from agentlib.learners.meta.adapting import adapted, query_losses, reptile_losses
from agentlib.learners.meta.maml import MAML, MAMLConfig, ReptileConfig
from agentlib.policies import CategoricalPolicy
from tests.data.test_episodes import numbered


def curve_of(learner, batch, steps):
    """The loss on each task's query after 0, 1, ... `steps` steps of adapting: `(steps + 1, tasks)`."""
    return vmap(vmap(functional.mse_loss), in_dims=(0, None))(learner.predictions(batch, steps), batch.query.y)


def parabola(parameters, center):
    """1/2 (theta - c)^2."""
    return 0.5 * (parameters["theta"] - center).square().sum()


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_of_parabolas(steps, first_order):
    """theta_k - c = (1 - alpha)^k (theta - c): the gradient has (1 - alpha)^2k, of first order (1 - alpha)^k."""
    alpha, theta = 0.3, torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    centers = torch.tensor([[-1.0], [0.5], [4.0]], dtype=torch.float64)
    losses = query_losses(parabola, {"theta": theta}, centers, centers, alpha, steps, first_order)
    shrink = (1 - alpha) ** steps
    torch.testing.assert_close(losses.detach(), 0.5 * (shrink * (theta.detach() - centers[:, 0])).square())
    (gradient,) = torch.autograd.grad(losses.mean(), theta)
    expected = shrink ** (1 if first_order else 2) * (theta.detach() - centers.mean())
    torch.testing.assert_close(gradient, expected)


def test_query_apart_from_support():
    """(1 - alpha) mean((1 - alpha) theta + alpha c - d) for support centers c and query centers d."""
    alpha, theta = 0.2, torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    support, query = torch.tensor([[[-1.0], [3.0]], [[0.0], [5.0]]], dtype=torch.float64).unbind()
    losses = query_losses(parabola, {"theta": theta}, support, query, alpha, 1)
    (gradient,) = torch.autograd.grad(losses.mean(), theta)
    expected = (1 - alpha) * ((1 - alpha) * 1.0 + alpha * support - query).mean(0)
    torch.testing.assert_close(gradient, expected)


def learner_of(loss="mse", outputs=1, **settings):
    with fresh_weights(0):
        layers = nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)
    network = nn.Sequential(*layers).double()
    return MAML(network, adam(1e-3), MAMLConfig(loss=loss, inner_learning_rate=0.1, **settings))


def tasks(loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, 1, dtype=torch.float64, generator=generator)
    y = x.sin() if loss == "mse" else (x[..., 0] > 0).long()
    return Pairs(x[0], y[0]), Pairs(x[1], y[1])


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_equals_unrolled_autograd(loss, first_order, steps):
    learner = learner_of(loss, 1 if loss == "mse" else 2)
    support, query = tasks(loss)
    weights = learner.parameters_by_name()
    ours = query_losses(learner.loss, weights, support, query, 0.1, steps, first_order)
    gradients = torch.autograd.grad(ours.mean(), list(weights.values()))

    def loss_of(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        output = functional_call(learner.network, values, (x,))
        return functional.mse_loss(output, y) if loss == "mse" else functional.cross_entropy(output, y)

    theirs = []
    for task in range(4):
        values = dict(weights)
        for _ in range(steps):
            slopes = torch.autograd.grad(
                loss_of(values, support.x[task], support.y[task]),
                list(values.values()),
                create_graph=not first_order,
            )
            values = {name: v - 0.1 * slope for (name, v), slope in zip(values.items(), slopes, strict=True)}
        theirs.append(loss_of(values, query.x[task], query.y[task]))
    unrolled = torch.stack(theirs)
    torch.testing.assert_close(ours, unrolled)
    expected = torch.autograd.grad(unrolled.mean(), list(weights.values()))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_adapting_equals_gradient_descent_and_leaves_the_network():
    learner = learner_of()
    support, _ = tasks("mse")
    before = copy.deepcopy(learner.network.state_dict())
    network = learner.adapt(Pairs(support.x[0], support.y[0]), steps=3)
    assert all(torch.equal(value, before[name]) for name, value in learner.network.state_dict().items())
    twin = copy.deepcopy(learner.network)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        functional.mse_loss(twin(support.x[0]), support.y[0]).backward()
        optimizer.step()
    torch.testing.assert_close(network(support.x[0]), twin(support.x[0]))


def test_curve_is_the_loss_after_each_step():
    learner = learner_of()
    source = Sinusoids(4, 5, 6, seed=1).double()
    source.advance()
    batch = source.sample()
    curve = curve_of(learner, batch, 3)
    assert curve.shape == (4, 4)
    assert not curve.requires_grad
    for steps in range(4):
        losses = query_losses(learner.loss, learner.parameters_by_name(), batch.support, batch.query, 0.1, steps)
        torch.testing.assert_close(curve[steps], losses.detach())


def test_frozen_parts_are_not_adapted():
    learner = learner_of()
    learner.network[:4].requires_grad_(False)
    assert list(learner.parameters_by_name()) == ["4.weight", "4.bias"]
    support, _ = tasks("mse")
    network = learner.adapt(Pairs(support.x[0], support.y[0]))
    assert torch.equal(network[2].weight, learner.network[2].weight)
    assert not torch.equal(network[4].weight, learner.network[4].weight)


def test_policies_are_adapted_too():
    """The output of a policy comes with a state; its actions are labels."""
    with fresh_weights(0):
        policy = CategoricalPolicy(MLP(3, hidden=(16,)), n_actions=2)
    learner = MAML(policy, adam(1e-3), MAMLConfig(loss="cross_entropy", inner_learning_rate=1.0))
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    adapted_policy = learner.adapt(Pairs(x, (x[:, 0] > 0).long()), steps=30)
    output, state = adapted_policy(x)
    assert state is None
    assert float((output.argmax(1) == (x[:, 0] > 0)).float().mean()) > 0.9


def test_a_step_of_joint_training_is_plain_regression():
    """With no inner steps the update is one step on the mean over all tasks."""
    learner, twin = learner_of(inner_steps=0), learner_of(inner_steps=0)
    source = Sinusoids(4, 5, 6, seed=1).double()
    for _ in run(learner, source, 1, compile=False):
        pass
    batch = source.sample()
    loss = functional.mse_loss(twin.network(batch.query.x.flatten(0, 1)), batch.query.y.flatten(0, 1))
    twin.step(loss, batch.clock)
    for one, other in zip(learner.network.parameters(), twin.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_learns_to_adapt_to_sinusoids():
    """After 300 updates: no better than the best task-agnostic guess before a step, far better after one."""
    config = MAMLConfig(batch_size=25)
    with fresh_weights(0):
        network = nn.Sequential(MLP(1, hidden=(40, 40)), nn.Linear(40, 1))
    learner = MAML(network, adam(config.learning_rate), config)
    for _ in run(learner, Sinusoids(25, 10, 10), 300, compile=False):
        pass
    held_out = Sinusoids(500, 10, 50, seed=10**6)
    held_out.advance()
    curve = curve_of(learner, held_out.sample(), 10).mean(1)
    assert float(curve[0]) > 2.7
    assert float(curve[1]) < 0.7 * float(curve[0])
    assert float(curve[10]) < float(curve[1])


@pytest.mark.slow
def test_learns_to_adapt_to_classes():
    """Which of two labels a class has is told by the support alone: a guess is ln 2."""
    config = MAMLConfig(loss="cross_entropy", ways=2, shots=2, queries=3, batch_size=8, inner_learning_rate=0.4)
    with fresh_weights(0):
        network = nn.Sequential(MLP(2, hidden=(32, 32)), nn.Linear(32, 2))
    data = numbered(classes=6, each=5)
    data.x[:, 1] = 0.0
    source = Episodes(data, config.ways, config.shots, config.queries, config.batch_size)
    learner = MAML(network, adam(2e-3), config)
    metrics = [update.metrics for _, update in run(learner, source, 400, compile=False)]
    before, after = (np.mean([float(m[name]) for m in metrics[-40:]]) for name in ("loss_before", "loss"))
    assert before > 0.65
    assert after < 0.45


def test_first_order_has_no_second_derivatives():
    theta = torch.tensor([2.0], requires_grad=True)
    moved = adapted(lambda p, c: (p["theta"] ** 4).sum(), {"theta": theta}, torch.zeros(1), 0.1, 1, first_order=True)
    (slope,) = torch.autograd.grad(moved["theta"].sum(), theta)
    assert float(slope) == 1.0
    exact = adapted(lambda p, c: (p["theta"] ** 4).sum(), {"theta": theta}, torch.zeros(1), 0.1, 1)
    (slope,) = torch.autograd.grad(exact["theta"].sum(), theta)
    assert float(slope) == pytest.approx(1 - 0.1 * 12 * 4)


def test_targets_without_the_last_axis_are_adapted_to_all_the_same():
    learner, (support, _) = learner_of(), tasks("mse")
    x, y = support.x[0], support.y[0]
    expected = learner.adapt(Pairs(x, y), steps=3)
    for targets in (y[:, 0], y.float()):
        network = learner.adapt(Pairs(x, targets), steps=3)
        torch.testing.assert_close(network(x), expected(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"targets of shape \(5, 2\) do not fit outputs of shape \(5, 1\)"):
        learner.adapt(Pairs(x, torch.cat([y, y], 1)))


def test_labels_of_int32_are_adapted_to_all_the_same():
    learner, (support, _) = learner_of("cross_entropy", 2), tasks("cross_entropy")
    x, y = support.x[0], support.y[0]
    expected = learner.adapt(Pairs(x, y))
    for labels in (y.int(), y[:, None], y.numpy().astype(np.int32)):
        torch.testing.assert_close(learner.adapt(Pairs(x, labels))(x), expected(x))
    with pytest.raises(ValueError, match=r"the support has the labels \[5, 6\], and the network no output for each"):
        learner.adapt(Pairs(x, y + 5))


# Reptile -------------------------------------------------------------------------------------------------------------


def gradients(losses, weights):
    return torch.autograd.grad(losses.mean(), list(weights.values()))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_reptile_in_one_step_is_joint_training_and_in_two_adds_first_order_maml(loss):
    """Nichol et al. 2018, section 5.1: g_1, and g_1 + g_2, where g_2 is the gradient of first-order MAML."""
    learner, (support, query) = learner_of(loss, 1 if loss == "mse" else 2), tasks(loss)
    weights, of_query = learner.parameters_by_name(), (learner.loss, learner.parameters_by_name(), support, query, 0.1)
    one, before = reptile_losses(*of_query, 1)
    losses = query_losses(learner.loss, weights, support, support, 0.1, 0)
    joint = gradients(losses, weights)
    first_order = gradients(query_losses(*of_query, 1, first_order=True), weights)
    torch.testing.assert_close(before, losses.detach())
    for ours, theirs in zip(gradients(one, weights), joint, strict=True):
        torch.testing.assert_close(ours, theirs)
    two = gradients(reptile_losses(*of_query, 2)[0], weights)
    for ours, first, second in zip(two, joint, first_order, strict=True):
        torch.testing.assert_close(ours, first + second)


def test_reptile_goes_to_the_adapted_weights():
    """The gradient is (theta - theta_i) / alpha, of theta_i by torch's own SGD, on support and query by turns."""
    learner, (support, query) = learner_of(), tasks("mse")
    weights, parts = learner.parameters_by_name(), (support, query)
    ours = gradients(reptile_losses(learner.loss, weights, support, query, 0.1, 3)[0], weights)
    ways = []
    for task in range(4):
        twin = copy.deepcopy(learner.network)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            functional.mse_loss(twin(parts[step % 2].x[task]), parts[step % 2].y[task]).backward()
            optimizer.step()
        ways.append([(old - new).detach() / 0.1 for old, new in zip(weights.values(), twin.parameters(), strict=True)])
    for mine, theirs in zip(ours, zip(*ways, strict=True), strict=True):
        torch.testing.assert_close(mine, torch.stack(theirs).mean(0))


@pytest.mark.slow
def test_reptile_learns_to_adapt_to_sinusoids():
    """After 600 updates one step is better than none, and ten are far better than the best guess without the task."""
    config = ReptileConfig(batch_size=25, inner_learning_rate=0.02)
    with fresh_weights(0):
        network = nn.Sequential(MLP(1, hidden=(40, 40)), nn.Linear(40, 1))
    learner = MAML(network, adam(config.learning_rate), config)
    for _ in run(learner, Sinusoids(25, 10, 10), 600, compile=False):
        pass
    held_out = Sinusoids(500, 10, 50, seed=10**6)
    held_out.advance()
    curve = curve_of(learner, held_out.sample(), 10).mean(1)
    assert float(curve[1]) < float(curve[0])
    assert float(curve[10]) < 0.7 * 3.01


def test_reptile_without_steps_is_refused():
    with pytest.raises(ValueError, match="Reptile goes to where steps of adapting lead: give inner_steps=1"):
        ReptileConfig(inner_steps=0)
