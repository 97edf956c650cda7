"""Regression against closed forms.

L = E[(w x - y)^2]                                     (Legendre 1805)
"""

from typing import Any

import numpy as np
import pytest
import torch

from agentlib.backbones import MLP, adam, sgd
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Batches, Dataset, Splits, dataset
from agentlib.engine import run
from agentlib.learners import Regressor, RegressorConfig
from agentlib.learners.supervised.regressor import RECIPE, error_of, without_conflicts
from agentlib.learners.supervised.regularization import (
    gaussian_prior,
    laplace_prior,
    penalized,
    penalty,
)
from agentlib.policies import Predictor
from agentlib.testing import check_learner


def diabetes():
    data = dataset("diabetes")
    x = data.x / data.x.std(0, correction=0)
    return Dataset(x - x.mean(0), data.y)


def learned(data, config, optimizer, updates, scaled=True):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        policy = Predictor(MLP(data.x.shape[1], config.net_arch or ()))
    if scaled:
        policy.fit_scale(data.targets)
    learner = Regressor(policy, optimizer, config)
    for _ in run(learner, Batches(data, config.batch_size), updates, compile=False):
        pass
    return policy


def test_errors():
    prediction, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 4.0], [0.0, 0.0]])
    assert error_of(prediction, target, "mse").tolist() == [2.0, 12.5]
    assert error_of(prediction, target, "mae").tolist() == [1.0, 3.5]


def test_penalties_and_priors():
    w = torch.tensor([[3.0, -4.0]])
    assert float(penalty([w], l1=0.5, l2=0.1)) == pytest.approx(0.5 * 7 + 0.1 * 25)
    assert penalty([w]) == 0.0
    # N losses and a prior: N l2 w^2 is -log N(w; 0, s^2) up to a constant, N l1 |w| that of a Laplace density.
    for n, s in ((1, 2.0), (50, 0.3)):
        normal, laplace = torch.distributions.Normal(0.0, s), torch.distributions.Laplace(0.0, s)
        for a, b in ((0.3, 1.1), (-0.5, 2.0)):
            difference = [normal.log_prob(torch.tensor(x)) for x in (a, b)]
            assert float(difference[1] - difference[0]) == pytest.approx(
                -n * gaussian_prior(s, n) * (b**2 - a**2), rel=1e-4
            )
            difference = [laplace.log_prob(torch.tensor(x)) for x in (a, b)]
            assert float(difference[1] - difference[0]) == pytest.approx(
                -n * laplace_prior(s, n) * (abs(b) - abs(a)), rel=1e-4
            )
    network = Predictor(MLP(2, (3,)))
    assert [tuple(p.shape) for p in penalized(network)] == [(3, 2), (1, 3)]  # no biases


@pytest.mark.parametrize("strength", [pytest.param(0.1, marks=pytest.mark.slow), 10.0])
def test_ridge_in_closed_form(strength):
    """(X'X + lambda I)^-1 X'y, lambda = N l2: our objective has no slope there; and training gets there."""
    data = diabetes()
    n = len(data)
    x, y = data.x.double().numpy(), data.targets.double().numpy()
    z = (y - y.mean()) / y.std()
    exact = np.linalg.solve(x.T @ x + strength * np.eye(10), x.T @ z)
    sklearn = pytest.importorskip("sklearn.linear_model").Ridge(alpha=strength).fit(x, z)
    assert np.allclose(exact, sklearn.coef_, atol=1e-10)

    w = torch.from_numpy(exact)[None].requires_grad_()
    errors = error_of((torch.from_numpy(x) @ w.T), torch.from_numpy(z)[:, None])
    objective = errors.mean() + penalty([w], l2=strength / n)
    assert float(torch.autograd.grad(objective, w)[0].abs().max()) < 1e-12

    config = RegressorConfig(net_arch=(), batch_size=n, l2=strength / n)
    policy = learned(data, config, sgd(0.2, momentum=0.95), 1200)
    assert np.abs(policy.head.weight[0].detach().numpy() - exact).max() < 1e-3
    predicted = policy(data.x)[0][:, 0].detach().numpy()
    assert np.abs(predicted - (x @ exact * y.std() + y.mean())).max() < 0.05


def test_more_ridge_is_smoother():
    """The notes have it the other way round."""
    data = diabetes()
    x, y = data.x.double().numpy(), data.targets.double().numpy()
    lengths = [
        np.linalg.norm(np.linalg.solve(x.T @ x + strength * np.eye(10), x.T @ y)) for strength in (0.01, 1.0, 100.0)
    ]
    assert lengths == sorted(lengths, reverse=True)


def test_lasso():
    """With orthonormal inputs the lasso is the soft-thresholded least squares solution."""
    generator = torch.Generator().manual_seed(0)
    n = 64
    columns = torch.cat([torch.ones(n, 1), torch.randn(n, 6, generator=generator)], 1)
    x = torch.linalg.qr(columns).Q[:, 1:] * n**0.5  # x'x = n, and each column has mean 0
    y = x @ torch.tensor([2.0, -1.0, 0.5, 0.1, 0.0, 0.0]) + 0.1 * torch.randn(n, generator=generator)
    least_squares = x.T @ y / n
    l1 = 0.4
    # mean error + l1 |w| = (w - w0)^2 + l1 |w| + constant
    expected = least_squares.sign() * (least_squares.abs() - l1 / 2.0).clamp_min(0.0)
    config = RegressorConfig(net_arch=(), batch_size=n, l1=l1)
    policy = learned(Dataset(x, y), config, adam(Cosine(0.02)), 600, scaled=False)
    assert torch.allclose(policy.head.weight[0].detach(), expected, atol=2e-3)
    assert (expected[3:] == 0).all()


@pytest.mark.slow
def test_absolute_errors_find_the_median():
    y = torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0])
    data = Dataset(torch.zeros(5, 1), y)
    for loss, expected in (("mse", 21.2), ("mae", 2.0)):
        config = RegressorConfig(net_arch=(), batch_size=5, loss=loss)
        policy = learned(data, config, adam(Cosine(0.05)), 500)
        assert float(policy(torch.zeros(1, 1))[0].detach()) == pytest.approx(expected, abs=0.05)


def test_units_do_not_matter():
    data = diabetes()
    config = RegressorConfig(net_arch=(8,), batch_size=64, l2=1e-3)
    first = learned(data, config, adam(1e-2), 50)
    cents = learned(Dataset(data.x, 100.0 * data.targets), config, adam(1e-2), 50)
    assert torch.allclose(100.0 * first(data.x)[0], cents(data.x)[0], rtol=1e-3)


def test_constant_targets_and_features():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.0
    policy = learned(Dataset(x, torch.full((40,), 5.0)), RegressorConfig(net_arch=()), adam(1e-2), 300)
    assert policy.scale.tolist() == [1.0]
    assert torch.allclose(policy(x)[0], torch.tensor(5.0), atol=0.1)


# Several numbers are several tasks -----------------------------------------------------------------------------------


def test_gradients_without_conflicts():
    """Two that conflict become orthogonal to each other's old ones (Yu et al. 2020, figure 2), others stay."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    for order in ([0, 1, 2], [2, 0, 1]):
        found = without_conflicts(gradients[:2], torch.tensor([one for one in order if one < 2]))
        torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(without_conflicts(gradients[[0, 2]], torch.tensor([1, 0])), gradients[[0, 2]])
    opposite = torch.stack([gradients[0], -gradients[0]])
    torch.testing.assert_close(without_conflicts(opposite, torch.tensor([0, 1])), torch.zeros_like(opposite))


def test_conflicts_are_taken_out_one_after_the_other_as_by_the_paper():
    """Algorithm 1 of Yu et al., in a loop, with one order for all."""
    gradients = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order, expected = torch.tensor([3, 0, 4, 1, 2]), []
    for number, own in enumerate(gradients):
        mine = own.clone()
        for other in order.tolist():
            if other != number and float(mine @ gradients[other]) < 0.0:
                mine -= mine @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
        expected.append(mine)
    torch.testing.assert_close(without_conflicts(gradients, order), torch.stack(expected))


def test_surgery_is_not_rounded_where_products_are_bfloat16():
    """The run's precision rounds the network's products, and not those of gradients."""
    config = RegressorConfig(balance="surgery", net_arch=())
    learner = Regressor(plane(), sgd(0.1), config)
    generator, found = torch.Generator().manual_seed(0), list[torch.Tensor]()
    x, weight = torch.randn(20, 3, generator=generator), learner.policy.head.weight
    for is_rounded in (False, True):
        prediction = learner.predict(x)
        losses = prediction.square().flip(1) + prediction  # of both outputs, so that they conflict
        with fresh_weights(0), torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
            loss = learner.balanced(losses)
        found += torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


def two_tasks(noise=2.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    clean = x @ torch.tensor([1.0, -1.0, 0.5])
    return Dataset(x, torch.stack([clean, noise * torch.randn(400, generator=generator)], 1))


def plane():
    with fresh_weights(0):
        return Predictor(MLP(3, ()), 2)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["uncertainty", "surgery"])
def test_the_contract_of_several_tasks(balance):
    class Balanced(Regressor):
        @classmethod
        def tiny(cls, seed=0):
            sizes: Any = {"batch_size": 32, "net_arch": (16,), "normalize": False}
            config = RegressorConfig(learning_rate=1e-2, balance=balance, **sizes)
            return RECIPE.tiny(cls, config, seed, data=Splits(*[two_tasks()] * 3))

    check_learner(Balanced)


def test_learned_weights_are_the_inverse_errors():
    """exp(s_k) ends at the error of number k: near 0 for the one that a line predicts, 1 for noise."""
    data, config = two_tasks(), RegressorConfig(batch_size=400, balance="uncertainty", net_arch=())
    policy = plane()
    policy.fit_scale(data.targets)
    learner = Regressor(policy, adam(Cosine(0.05)), config)
    for _ in run(learner, Batches(data, 400), 400, compile=False):
        pass
    assert learner.log_variances is not None
    with torch.no_grad():
        errors = learner.errors(learner.predict(data.x), data.targets).mean(0)
        first, second = learner.log_variances.exp().tolist()
    assert second == pytest.approx(float(errors[1]), rel=0.02)
    assert second == pytest.approx(1.0, abs=0.05)
    assert first < 0.05


def test_surgery_of_orthogonal_tasks_is_the_plain_gradient():
    """Rows of a linear model share no weight, so that nothing conflicts: the same steps as with equal weights."""
    data, found = two_tasks(), list[torch.Tensor]()
    for balance in ("equal", "surgery"):
        config = RegressorConfig(batch_size=50, balance=balance, net_arch=())
        policy = plane()
        learner = Regressor(policy, sgd(0.1), config)
        for _ in run(learner, Batches(data, 50), 20, compile=False):
            pass
        found.append(policy.head.weight.detach())
    torch.testing.assert_close(found[0], found[1])
