"""A frozen copy that follows."""

import copy

import pytest
import torch
from torch import nn

from agentlib.core import Clock, Target, average_rate


def network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        net(torch.randn(16, 3))  # so that the running statistics are no longer those of the start
    return net


def test_a_copy_of_its_own():
    source = network(0)
    target = Target(source)
    for mine, theirs in zip(target.network.parameters(), source.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
        assert not mine.requires_grad
        assert theirs.requires_grad
    assert source.training


@pytest.mark.parametrize("tau", [1.0, 1, 0.25, 0.0, torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64)])
def test_follow(tau):
    start, source = network(0), network(0)
    target = Target(source)
    source.load_state_dict(network(1).state_dict())
    target.follow(tau)
    share = float(tau)
    pairs = zip(target.network.parameters(), start.parameters(), source.parameters(), strict=True)
    for mine, old, new in pairs:
        torch.testing.assert_close(mine, (1 - share) * old + share * new)
    for kept, given in zip(target.network.buffers(), source.buffers(), strict=True):
        assert torch.equal(kept, given)  # whatever the share: half a count is none
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_follows_to_the_bit():
    source = network(0)
    target = Target(source)
    source.load_state_dict(network(1).state_dict())
    target.follow()
    for name, value in target.network.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


def test_follow_converges_geometrically():
    source = nn.Linear(1, 1, bias=False)
    target = Target(source)
    nn.init.constant_(source.weight, 1.0)
    nn.init.constant_(target.get_parameter("network.weight"), 0.0)
    for _ in range(10):
        target.follow(0.1)
    assert target.get_parameter("network.weight").item() == pytest.approx(1 - 0.9**10, abs=1e-6)


def test_never_leaves_eval_mode():
    parent = nn.ModuleDict({"net": network(0), "target": Target(network(0))})
    for change in (parent.train, parent.eval, parent.train, lambda: parent["target"].train(True)):
        change()
        assert not any(module.training for module in parent["target"].modules())
    assert parent["net"].training
    x, target = torch.randn(8, 3), parent["target"]
    before = target.get_buffer("network.1.running_mean").clone()
    assert torch.equal(target(x), target(x))  # no dropout
    assert torch.equal(before, target.get_buffer("network.1.running_mean"))


def test_another_structure_is_an_error():
    source = nn.Linear(2, 2)
    target = Target(source)
    source.bias = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="zip"):
        target.follow()


def moved(every, tau, *steps):
    """The weight of a target that starts at 0 and follows 1, after each of these steps."""
    source = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(source.weight)
    target = Target(source, every, tau)
    nn.init.ones_(source.weight)
    found = []
    for step in steps:
        target.follow_when_due(Clock(0, step, 0.0))
        found.append(round(float(target.get_parameter("network.weight")), 6))
    return found


def test_it_knows_when_it_follows():
    assert moved(10, 1.0, 0, 9, 10) == [0.0, 0.0, 1.0]
    assert moved(10, 0.5, 4, 10, 15, 20, 20, 31) == [0.0, 0.5, 0.5, 0.75, 0.75, 0.875]
    assert moved(10, 0.5, 30) == [0.875]  # once for each of the three that are due
    assert moved(256, 0.5, 255, 256, 512) == [0.0, 0.5, 0.75]


def test_when_it_moved_last_is_in_its_state():
    source = nn.Linear(1, 1, bias=False)
    target, other = Target(source, 10, 0.5), Target(source, 10, 0.5)
    target.follow_when_due(Clock(0, 25, 0.0))
    other.load_state_dict(target.state_dict())
    before = other.get_parameter("network.weight").clone()
    other.follow_when_due(Clock(0, 29, 0.0))
    assert torch.equal(other.get_parameter("network.weight"), before)


def test_a_copy_of_both_follows_the_copy():
    learner = nn.ModuleDict({"network": nn.Linear(1, 1, bias=False)})
    learner["target"] = Target(learner["network"])
    copied = copy.deepcopy(learner)
    nn.init.constant_(copied["network"].weight, 3.0)  # type: ignore[arg-type]
    copied["target"].follow()  # type: ignore[operator]
    assert float(copied["target"].get_parameter("network.weight")) == 3.0
    assert "source" not in dict(copied["target"].named_children())


def test_the_rate_of_an_average_at_start_middle_and_end():
    for updates, rate in ((0, 0.9), (80, 0.1), (8_990, 0.001), (100_000, 0.001)):
        assert average_rate(0.999, Clock(updates, updates, 0.0)) == pytest.approx(rate)
        on_batch = average_rate(0.999, Clock(*torch.tensor([updates, updates, 0.0], dtype=torch.float64)))
        assert float(on_batch) == pytest.approx(rate)
