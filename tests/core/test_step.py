"""One step downhill: each rule equals torch.optim's, step by step."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agentlib.backbones import adagrad, adam, adamw, lars, rmsprop, sgd
from agentlib.core import Clock, Linear, Step, at
from agentlib.core.step import LARGE, _groups, learning_rate_factors, parameters_of
from agentlib.engine import run
from agentlib.engine.compiled import compiler_found
from agentlib.learners.supervised.classifier import Classifier

START = Clock(0, 0, 0.0)


def small_network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)).double()
        for parameter in network.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(2, 8, 5, generator=generator, dtype=torch.float64).split([3, 2], -1)


def loss_of(network, batch):
    x, y = (part[0] for part in batch)
    return (network(x) - y).square().mean()


def torch_groups(network, weight_decay):
    """Our weight decay is on matrices only."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def assert_equal(network, other, tolerance=1e-12):
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=tolerance)


RULES = {
    "sgd": (sgd, torch.optim.SGD, 0.0),
    "sgd with decay": (partial(sgd, weight_decay=0.1), torch.optim.SGD, 0.1),
    "momentum": (partial(sgd, momentum=0.9), partial(torch.optim.SGD, momentum=0.9), 0.0),
    "momentum with decay": (partial(sgd, momentum=0.9, weight_decay=0.1), partial(torch.optim.SGD, momentum=0.9), 0.1),
    "nesterov": (
        partial(sgd, momentum=0.9, nesterov=True),
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        0.0,
    ),
    "adagrad": (adagrad, torch.optim.Adagrad, 0.0),
    "adagrad with decay": (
        partial(adagrad, eps=1e-3, weight_decay=0.1),
        partial(torch.optim.Adagrad, eps=1e-3),
        0.1,
    ),
    "rmsprop": (rmsprop, torch.optim.RMSprop, 0.0),
    "rmsprop with decay": (
        partial(rmsprop, alpha=0.95, eps=0.01, weight_decay=0.1),
        partial(torch.optim.RMSprop, alpha=0.95, eps=0.01),
        0.1,
    ),
    "adam": (adam, torch.optim.Adam, 0.0),
    "adam with decay": (
        partial(adam, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.1),
        partial(torch.optim.Adam, betas=(0.5, 0.9), eps=1e-4),
        0.1,
    ),
    "adamw": (adamw, torch.optim.AdamW, 0.01),
    "adamw with decay": (partial(adamw, weight_decay=0.5), torch.optim.AdamW, 0.5),
}


@pytest.mark.parametrize(
    "large",
    [
        pytest.param(1 << 16, id="all joined", marks=pytest.mark.slow),
        pytest.param(10, id="matrices alone"),
        pytest.param(1, id="each alone", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("rule", "optimizer", "weight_decay"), RULES.values(), ids=RULES)
def test_rules_equal_torch(rule, optimizer, weight_decay, large, monkeypatch):
    """40 steps in float64, with a learning rate that changes at each."""
    monkeypatch.setattr("agentlib.core.step.LARGE", large)
    rate = Linear(0.03, 0.001, over=0.7)
    mine, theirs = small_network(), small_network()
    step = Step(mine, rule(rate))
    reference = optimizer(torch_groups(theirs, weight_decay), lr=1.0)
    for i, batch in enumerate(batches(40)):
        numbers = Clock(i, i, i / 40)
        clock = Clock(*(torch.tensor(float(field), dtype=torch.float64) for field in numbers))
        step(loss_of(mine, batch), clock if i % 2 else numbers)
        for group in reference.param_groups:
            group["lr"] = at(rate, numbers)
        reference.zero_grad()
        loss_of(theirs, batch).backward()
        reference.step()
    assert_equal(mine, theirs)
    assert step.count == 40


FORMULAS: dict[str, Any] = {
    "sgd": (sgd, lambda theta, g, m, lr, t: (theta - lr * g, m)),
    "momentum": (
        partial(sgd, momentum=0.9),
        lambda theta, g, m, lr, t: (theta - lr * (0.9 * m[0] + g), [0.9 * m[0] + g]),
    ),
    "adagrad": (
        partial(adagrad, eps=1e-6),
        lambda theta, g, m, lr, t: (theta - lr * g / ((m[0] + g**2).sqrt() + 1e-6), [m[0] + g**2]),
    ),
    "rmsprop": (
        partial(rmsprop, alpha=0.9),
        lambda theta, g, m, lr, t: (
            theta - lr * g / ((0.9 * m[0] + 0.1 * g**2).sqrt() + 1e-8),
            [0.9 * m[0] + 0.1 * g**2],
        ),
    ),
    "adam": (adam, lambda theta, g, m, lr, t: adam_by_the_book(theta, g, m, lr, t)),
    "adamw": (
        partial(adamw, weight_decay=0.1),
        lambda theta, g, m, lr, t: adam_by_the_book((1.0 - lr * 0.1) * theta, g, m, lr, t),
    ),
}
"""(parameters, gradient, memory, learning rate, number of the step from 1) -> parameters and memory."""


def adam_by_the_book(theta, g, m, lr, t):
    first, second = 0.9 * m[0] + 0.1 * g, 0.999 * m[1] + 0.001 * g**2
    step = first / (1.0 - 0.9**t) / ((second / (1.0 - 0.999**t)).sqrt() + 1e-8)
    return theta - lr * step, [first, second]


@pytest.mark.parametrize("name", FORMULAS)
def test_rules_equal_their_formulas(name):
    """100 steps on a valley, the learning rate a fifth of what it was from the middle on."""
    rule, formula = FORMULAS[name]
    steepness = torch.linspace(0.1, 3.0, 12, dtype=torch.float64).view(3, 4)
    mine = nn.Parameter(torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).view(3, 4))
    theta, memory = mine.detach().clone(), [torch.zeros_like(mine), torch.zeros_like(mine)]
    step = Step(mine, rule(lambda clock: 0.05 if clock.updates < 50 else 0.01))
    for t in range(1, 101):
        step((steepness * mine.square()).sum() / 2.0 + mine.sin().sum(), Clock(t - 1, t - 1, t / 100))
        gradient = steepness * theta + theta.cos()
        theta, memory = formula(theta, gradient, memory, 0.05 if t <= 50 else 0.01, t)
    torch.testing.assert_close(mine.detach(), theta, rtol=0.0, atol=1e-12)


def test_nesterov_looks_ahead():
    """g <- grad(theta - lr mu g) + mu g;  theta <- theta - lr g. Our parameters, as torch's, are where it looks."""
    steepness, rate, mu = torch.linspace(0.1, 3.0, 5, dtype=torch.float64), 0.05, 0.9
    mine = nn.Parameter(torch.linspace(-1.0, 2.0, 5, dtype=torch.float64))
    theta, g = mine.detach().clone(), torch.zeros(5, dtype=torch.float64)
    step = Step(mine, sgd(rate, mu, nesterov=True))
    for _ in range(100):
        ahead = theta - rate * mu * g
        torch.testing.assert_close(mine.detach(), ahead, rtol=0.0, atol=1e-12)
        g = steepness * ahead + ahead.cos() + mu * g
        theta = theta - rate * g
        step((steepness * mine.square()).sum() / 2.0 + mine.sin().sum(), START)


@pytest.mark.parametrize("limit", [0.05, 1e9])
def test_clipping_equals_torch(limit):
    mine, theirs = small_network(), small_network()
    step, reference = Step(mine, sgd(0.1), limit), torch.optim.SGD(theirs.parameters(), 0.1)
    for batch in batches(20):
        norm = step(loss_of(mine, batch), START)
        reference.zero_grad()
        loss_of(theirs, batch).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        reference.step()
        torch.testing.assert_close(norm, expected)
        assert norm.dim() == 0
        assert not norm.requires_grad
    assert_equal(mine, theirs)


@pytest.mark.parametrize("limit", [None, 0.05])
def test_torch_factory_equals_the_rule(limit):
    mine, theirs = small_network(), small_network()
    step, other = Step(mine, adam(0.01), limit), Step(theirs, partial(torch.optim.Adam, lr=0.01), limit)
    for batch in batches(30):
        torch.testing.assert_close(step(loss_of(mine, batch), START), other(loss_of(theirs, batch), START))
    assert_equal(mine, theirs)
    assert all(parameter.grad is None for parameter in theirs.parameters())

    again = Step(theirs, partial(torch.optim.Adam, lr=0.5))
    again.load_state_dict(other.state_dict())
    for batch in batches(10, seed=2):
        step(loss_of(mine, batch), START)
        again.max_grad_norm = limit
        again(loss_of(theirs, batch), START)
    assert_equal(mine, theirs)


def test_a_shared_parameter_is_stepped_once():
    network, x = small_network(), torch.ones(4, 3, dtype=torch.float64)
    tied = nn.ModuleList([network, network[0], network])
    assert len(parameters_of(tied)) == len(parameters_of([network, network[0]])) == len(list(network.parameters()))
    before = network[0].bias.detach().clone()
    loss = network(x).sum() + network[0](x).sum()
    (slope,) = torch.autograd.grad(loss, network[0].bias, retain_graph=True)
    Step([network, network[0], network[0].bias], sgd(0.1))(loss, START)
    torch.testing.assert_close(network[0].bias, before - 0.1 * slope)


def test_frozen_parameters_stay_and_unused_ones_too():
    network, unused = small_network(), nn.Linear(2, 2).double()
    network[0].requires_grad_(False)
    before = copy.deepcopy(nn.ModuleList([network, unused]))
    step = Step([network, unused], sgd(0.1, momentum=0.9))
    for batch in batches(2):
        step(loss_of(network, batch), START)
    assert_equal(network[0], before.get_submodule("0.0"), 0.0)
    assert_equal(unused, before[1], 0.0)
    assert not torch.equal(network[3].weight, before.get_parameter("0.3.weight"))


@pytest.mark.parametrize("how", ["pair", "attribute", "both"])
@pytest.mark.parametrize("rule", ["momentum", "adamw"])
def test_a_module_with_a_learning_rate_of_its_own_equals_torchs_groups(rule, how):
    """Weight decay included, which is a part of the step that the rate scales."""
    kinds: dict[str, Any] = {
        "momentum": (partial(sgd, momentum=0.9), partial(torch.optim.SGD, momentum=0.9), 0.0),
        "adamw": (partial(adamw, weight_decay=0.1), torch.optim.AdamW, 0.1),
    }
    make, optimizer, decay = kinds[rule]
    mine, theirs = small_network(), small_network()
    first, rest = mine[0], mine[1:]
    share = 0.1
    if how != "pair":
        first.learning_rate_factor = 0.5 if how == "both" else 0.1
        share = 0.2
    step = Step([first if how == "attribute" else (first, share), rest], make(0.02))
    groups = [
        {
            "params": [p for p in part.parameters() if (p.dim() > 1) == matrix],
            "lr": rate,
            "weight_decay": decay * matrix,
        }
        for part, rate in ((theirs[0], 0.002), (theirs[1:], 0.02))
        for matrix in (True, False)
    ]
    reference = optimizer([group for group in groups if group["params"]])
    for batch in batches(50):
        step(loss_of(mine, batch), START)
        reference.zero_grad()
        loss_of(theirs, batch).backward()
        reference.step()
    assert_equal(mine, theirs)


def test_the_factor_of_a_module_holds_inside_it_and_only_there():
    network = small_network()
    network[0].learning_rate_factor = 0.25
    factors = learning_rate_factors(nn.ModuleList([network]))
    assert list(factors) == list(network.parameters())
    assert list(factors.values()) == [0.25, 0.25, 1.0, 1.0, 1.0, 1.0]
    assert set(learning_rate_factors((network, 2.0)).values()) == {0.5, 2.0}
    assert set(learning_rate_factors([(network[3].bias, 3)]).values()) == {3.0}
    assert list(learning_rate_factors(copy.deepcopy(network)).values()) == list(factors.values())
    network[0].requires_grad_(False)
    assert len(learning_rate_factors(network)) == 4


def test_a_frozen_backbone_with_a_head_that_learns():
    backbone, head = small_network(), nn.Linear(2, 1).double()
    backbone.requires_grad_(False)
    before, was = copy.deepcopy(backbone.state_dict()), head.weight.detach().clone()
    step = Step([backbone, head], adamw(0.1))
    for x, _ in batches(5):
        step(head(backbone(x[0])).square().mean(), START)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not torch.equal(head.weight, was)
    assert len(step.parameter_list) == 2


def test_large_parameters_are_not_joined():
    assert _groups([3, 4, 5]) == [slice(0, 3)]
    assert _groups([3, LARGE, 4, 5, LARGE + 1, LARGE]) == [
        slice(*ends) for ends in ((0, 1), (1, 2), (2, 4), (4, 5), (5, 6))
    ]


@pytest.mark.parametrize("large", [1 << 16, 1], ids=["joined", "alone"])
def test_state_goes_on_where_it_was(large, monkeypatch):
    monkeypatch.setattr("agentlib.core.step.LARGE", large)
    network = small_network()
    step = Step(network, adamw(0.01))
    for batch in batches(5):
        step(loss_of(network, batch), START)
    other = copy.deepcopy(network)
    again = Step(other, adamw(0.01))
    again.load_state_dict(step.state_dict())
    both = copy.deepcopy(nn.ModuleList([network, step]))  # a copy steps its own network
    for batch in batches(5, seed=3):
        step(loss_of(network, batch), START)
        again(loss_of(other, batch), START)
        both[1](loss_of(both[0], batch), START)
    assert_equal(network, other, 0.0)
    assert_equal(network, both[0], 0.0)
    for one in (again, both[1]):
        torch.testing.assert_close(one.state_dict(), step.state_dict(), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("large", [1 << 16, 1], ids=["joined", "alone"])
def test_moves_with_its_network(large, monkeypatch):
    monkeypatch.setattr("agentlib.core.step.LARGE", large)
    network = small_network()
    learner = nn.ModuleDict({"network": network, "step": Step(network, adamw(0.01))})
    learner.float()
    batch = [part.float() for part in next(batches(1))]
    learner["step"](loss_of(network, batch), START)
    assert network[0].weight.dtype == learner["step"].mean.dtype == torch.float32
    assert learner["step"].state_dict()["mean"].all()


def test_errors():
    network = small_network()
    with pytest.raises(ValueError, match="nothing to train"):
        Step(small_network().requires_grad_(False), sgd(0.1))
    with pytest.raises(ValueError, match="one dtype"):
        Step([network, nn.Linear(2, 2)], sgd(0.1))
    with pytest.raises(ValueError, match="momentum"):
        sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match=r"factor is positive, not 0.*requires_grad_\(False\) freezes"):
        Step([(network, 0.0)], sgd(0.1))
    with pytest.raises(ValueError, match=r"a shared parameter would get the learning rate's factors 1\.0 and 0\.5"):
        Step([network, (network[0], 0.5)], sgd(0.1))
    with pytest.raises(ValueError, match="own learning rate needs a rule of"):
        Step((network, 0.5), partial(torch.optim.SGD, lr=0.1))


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_compiled_adamw_equals_torch():
    """Compiled once, over steps whose count and rate change."""
    theirs = small_network()
    mine = copy.deepcopy(theirs)
    rate = Linear(0.03, 0.001)
    step = Step([(mine[0], 0.5), mine[1:]], adamw(rate), max_grad_norm=1.0)
    parts = {0.5: theirs[0], 1.0: theirs[1:]}
    reference = torch.optim.AdamW(
        [{**group, "factor": factor} for factor, part in parts.items() for group in torch_groups(part, 0.01)], lr=1.0
    )
    compiled = torch.compile(
        lambda x, y, fraction: step((mine(x) - y).square().mean(), Clock(0, 0, fraction)), fullgraph=True
    )
    with torch._dynamo.config.patch(trace_autograd_ops=True, error_on_recompile=True):
        for i, batch in enumerate(batches(50)):
            x, y = (part[0] for part in batch)
            compiled(x, y, torch.tensor(i / 50, dtype=torch.float64))
            for group in reference.param_groups:
                group["lr"] = group["factor"] * at(rate, Clock(i, i, i / 50))
            reference.zero_grad()
            loss_of(theirs, batch).backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            reference.step()
    assert_equal(mine, theirs, 1e-9)


def lars_by_the_book(weights, gradients, velocities, rate, momentum=0.9, decay=0.01, trust=0.02):
    for name, w in weights.items():
        g = gradients[name]
        if w.ndim > 1:
            ratio = trust * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w))
            g = ratio * (g + decay * w)
        velocities[name] = momentum * velocities[name] + g
        weights[name] = w - rate * velocities[name]


@pytest.mark.parametrize("limit", [None, 0.1])
def test_lars_is_its_algorithm(limit):
    network = small_network()
    step = Step(network, lars(Linear(0.5, 0.1), weight_decay=0.01, trust=0.02), limit)
    weights = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    velocities = {name: np.zeros_like(w) for name, w in weights.items()}
    for number, batch in enumerate(batches(6)):
        loss = loss_of(network, batch)
        slopes = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        norm = float(torch.stack([slope.norm() for slope in slopes]).norm())
        share = 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))
        gradients = {name: share * slope.numpy() for name, slope in zip(weights, slopes, strict=True)}
        lars_by_the_book(weights, gradients, velocities, 0.5 - 0.4 * number / 6)
        assert float(step(loss, Clock(number, number, number / 6))) == pytest.approx(norm)
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=0, atol=1e-12)


def test_lars_moves_matrices_alike_however_the_loss_is_scaled():
    moves = []
    for scale in (1.0, 100.0):
        network = small_network()
        before = [p.detach().clone() for p in network.parameters()]
        step = Step(network, lars(0.1, weight_decay=0.0))
        step(scale * loss_of(network, next(batches(1))), Clock(0, 0, 0.0))
        moves.append([p.detach() - old for p, old in zip(network.parameters(), before, strict=True)])
    for one, other in zip(*moves, strict=True):
        ratio = 1.0 if one.dim() > 1 else 100.0
        torch.testing.assert_close(ratio * one, other)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_lars_is_compiled():
    weights = []
    for compiled in (False, True):
        learner, source = Classifier.tiny(seed=0)
        learner.step = Step(learner.policy, lars(0.5), 1.0)
        list(run(learner, source, 50, compile=compiled))
        weights.append([p.detach().clone() for p in learner.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
