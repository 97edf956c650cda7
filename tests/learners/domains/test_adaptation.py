"""Statistics undo a change of scale exactly; Tent makes predictions surer, and touches gains and shifts alone."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import CNN, MLP, WithContext
from agentlib.data import Dataset
from agentlib.learners.domains.adaptation import adapt_statistics, entropy, tent, ttt
from agentlib.learners.self_supervised.rotation import quarter_turns
from agentlib.policies import CategoricalPolicy, RotationPolicy


def images(n=64, seed=0):
    return torch.rand(n, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


def points(n=300):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def policy_of(norm="batch", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CategoricalPolicy(CNN((1, 12, 12), (8, "max", 8), feature_dim=16, norm=norm), 3).eval()


def test_a_change_of_light_is_undone():
    """Linear layers under BatchNorm give the same for x and for 3 x, where the statistics are those of either."""
    policy, x = CategoricalPolicy(MLP(4, (16, 16), norm="batch"), 3).eval(), points()
    usual, changed = adapt_statistics(policy, x), adapt_statistics(policy, 3.0 * x + 2.0)
    torch.testing.assert_close(changed(3.0 * x + 2.0)[0], usual(x)[0], atol=2e-4, rtol=0)
    assert float((usual(3.0 * x + 2.0)[0] - usual(x)[0]).detach().abs().max()) > 0.1


def test_a_sensor_of_another_scale_is_undone():
    trained: Any = agentlib.train(
        "classifier",
        data=Dataset(points() * 5.0 + 1.0, torch.arange(300) % 2, ("a", "b")),
        net_arch=(8,),
        steps=5,
        progress=False,
    )
    policy = trained.model
    x = points() * 5.0 + 1.0
    usual = adapt_statistics(policy, x)
    torch.testing.assert_close(
        adapt_statistics(policy, 0.1 * x - 7.0)(0.1 * x - 7.0)[0], usual(x)[0], atol=1e-4, rtol=0
    )


def test_shares_and_what_stays():
    policy, x = policy_of(), images()
    before = copy.deepcopy(policy.state_dict())
    half, whole = adapt_statistics(policy, x, 0.5), adapt_statistics(policy, x)
    first = next(name for name in before if name.endswith("running_mean"))
    torch.testing.assert_close(half.state_dict()[first], 0.5 * (before[first] + whole.state_dict()[first]))
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert not any(module.training for module in whole.modules())
    assert {m.momentum for m in whole.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_tent(norm):
    policy, x = policy_of(norm), images()
    adapted = tent(policy, x, learning_rate=1e-2, epochs=3, batch_size=32)
    reference = adapt_statistics(policy, x) if norm == "batch" else policy
    now, before = (float(entropy(model(x)[0]).detach().mean()) for model in (adapted, reference))
    assert now < before
    moved = {name for name, value in adapted.named_parameters() if not torch.equal(value, policy.get_parameter(name))}
    kinds = {type(adapted.get_submodule(name.rpartition(".")[0])) for name in moved}
    assert kinds <= {nn.BatchNorm2d, nn.BatchNorm1d, nn.GroupNorm, nn.LayerNorm}
    assert moved
    assert all(parameter.requires_grad and parameter.grad is None for parameter in adapted.parameters())


def test_a_context_is_the_mean_over_the_examples_that_are_met():
    x = points()
    policy: Any = CategoricalPolicy(WithContext(MLP(4, (16,)), 5), 3).eval()
    adapted = adapt_statistics(policy, x)
    context = policy.backbone.reader(policy.backbone.backbone(x)).mean(0)
    torch.testing.assert_close(adapted.backbone.mean, context)
    assert not policy.backbone.mean.any()
    together = torch.cat([policy.backbone.backbone(x), context.expand(len(x), -1)], 1)
    torch.testing.assert_close(adapted(x)[0], policy.head(policy.backbone.joint(together).relu()))


def test_contexts_of_the_domains_of_a_batch():
    """In training each domain has its own, and the gradient goes through it."""
    x = points(6)
    network: Any = WithContext(MLP(4, (16,)), 5)
    masks = torch.tensor([[1.0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    both = network(x, masks)
    for mask in masks[:2].bool():
        torch.testing.assert_close(both[mask], network(x[mask]))
    assert torch.autograd.grad(both[0].sum(), network.reader[0].weight)[0].any()


def test_turns_are_told_better_and_heads_stay():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = RotationPolicy(CNN((1, 12, 12), (8, "max", 8), feature_dim=16), 3).eval()
    x = images() * torch.linspace(0.0, 1.0, 12)  # brighter on one side
    turned, turn = quarter_turns(x)
    before = copy.deepcopy(policy.state_dict())
    adapted = ttt(policy, x, learning_rate=1e-2, epochs=3)

    def loss(model):
        return float(nn.functional.cross_entropy(model.turns(model.backbone(turned)), turn).detach())

    assert loss(adapted) < 0.7 * loss(policy)
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in policy.named_parameters() if name.startswith("backbone.")}
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in adapted.parameters())


def test_entropy():
    assert float(entropy(torch.zeros(1, 4))) == pytest.approx(math.log(4))
    assert float(entropy(torch.tensor([[100.0, 0.0, 0.0]]))) == pytest.approx(0.0, abs=1e-6)


def test_bad_input():
    plain = CategoricalPolicy(MLP(3, (4,)), 2)
    with pytest.raises(ValueError, match="keeps no statistics: train it with norm="):
        adapt_statistics(plain, torch.rand(8, 3))
    with pytest.raises(ValueError, match="no normalization to adapt"):
        tent(plain, torch.rand(8, 3))
    with pytest.raises(ValueError, match="more than 0 and at most 1, not 0"):
        adapt_statistics(policy_of(), images(), 0.0)
