"""Domains as data: what they hold, how batches are balanced, and the sets that are made of images."""

import pytest
import torch

from agentlib.data import Dataset
from agentlib.data.domains import DomainBatches, Domains, coloured, domains, on_backgrounds, rotated, share_in_data


def part(n=20, move=0.0, classes=("a", "b"), labels=2):
    return Dataset(
        torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) + move, torch.arange(n) % labels, classes
    )


def test_sources_and_targets():
    data = Domains({"one": part(), "two": part(30), "three": part(40)}, ("two",))
    assert data.sources == ("one", "three")
    assert [left.targets for left in data.each_left_out()] == [("one",), ("two",), ("three",)]


def test_bad_domains():
    with pytest.raises(ValueError, match="the domain two has no examples"):
        Domains({"one": part(), "two": part().take(torch.arange(0))})
    with pytest.raises(ValueError, match="the domain two has no example of the class b"):
        Domains({"one": part(), "two": part(labels=1)})
    with pytest.raises(ValueError, match="the domains one and two differ: classes a, b and a, c"):
        Domains({"one": part(), "two": part(classes=("a", "c"))})
    bytes_of_two = Dataset(part().x.abs().to(torch.uint8), part().targets, ("a", "b"))
    with pytest.raises(ValueError, match=r"one and two hold torch.float32 and torch.uint8: give"):
        Domains({"one": part(), "two": bytes_of_two})
    with pytest.raises(ValueError, match="the target 'tow' is no domain; close matches: two"):
        Domains({"one": part(), "two": part()}, ("tow",))
    with pytest.raises(ValueError, match="no domain to learn from"):
        Domains({"one": part()}, ("one",))
    with pytest.raises(ValueError, match="unknown domains 'rotated_digit'; close matches: rotated_digits"):
        domains("rotated_digit")


@pytest.mark.parametrize(
    ("balance", "shares"), [("domains", [0.5, 0.5]), ("groups", [0.5, 0.5]), ("examples", [0.9, 0.1])]
)
def test_balance(balance, shares):
    """A large domain of mostly one class, and a small one."""
    y = torch.cat([(torch.arange(900) % 10 == 0).long(), torch.arange(100) % 2])
    data, domain = Dataset(torch.randn(1000, 2), y, ("a", "b")), torch.tensor([0] * 900 + [1] * 100)
    source = DomainBatches(data, domain, torch.randn(50, 2), 40, balance=balance)
    count, ones = torch.zeros(2), 0.0
    for _ in range(50):
        source.advance()
        batch = source.sample()
        assert batch.x.shape == (40, 2)
        assert batch.target_x.shape == (20, 2)
        assert torch.equal(data.x[batch.index], batch.x)
        assert torch.equal(domain[batch.index], batch.domain)
        count += torch.bincount(batch.domain, minlength=2)
        ones += float(batch.y[batch.domain == 0].float().mean()) / 50
    assert (count / count.sum()).tolist() == pytest.approx(shares, abs=0.03)
    assert ones == pytest.approx(0.5 if balance == "groups" else 0.1, abs=0.03)


@pytest.mark.parametrize("balance", ["domains", "groups", "examples"])
def test_means_over_batches_become_those_over_the_data(balance):
    """Of a number that is the same within a group: 300, 100 and 50 of 450 examples."""
    y, domain = torch.tensor([0] * 300 + [1] * 100 + [0, 1] * 25), torch.tensor([0] * 400 + [1] * 50)
    data, number = Dataset(torch.randn(450, 2), y, ("a", "b")), 1.0 + 2.0 * y + 5.0 * domain
    source, share = DomainBatches(data, domain, data.x[:0], 48, balance=balance), share_in_data(data, domain, balance)
    found = []
    for _ in range(600):
        source.advance()
        found.append(float((share * number)[source.sample().index].mean()))
    assert sum(found) / 600 == pytest.approx(float(number.mean()), rel=1e-5 if balance == "groups" else 0.02)


def test_batches_of_other_targets_are_others():
    data, domain = part(), torch.arange(20) % 2
    found = {DomainBatches(data, domain, torch.full((4, 3), fill), 8).fingerprint() for fill in (0.0, 1.0)}
    assert len(found) == 2


def test_coloured_images():
    """Colours agree with labels in 80%, 90% and 10%; labels with digits in three quarters."""
    digits = Dataset(torch.ones(9_000, 1, 2, 2), torch.arange(9_000) % 10, tuple("0123456789"))
    data = coloured(digits)
    assert list(data.parts) == ["80%", "90%", "10%"]
    assert data.targets == ("10%",)
    for name, found in data.parts.items():
        is_green = found.x[:, 1].mean((1, 2)) > 0
        assert torch.equal(found.x.sum(1), torch.ones(3_000, 2, 2))
        agreed = float((is_green.long() == found.targets).double().mean())
        assert agreed == pytest.approx(int(name[:-1]) / 100, abs=0.03)


def test_backgrounds_tell_the_class_of_the_usual():
    digits = Dataset(torch.zeros(400, 1, 8, 8), torch.arange(400) % 10, tuple("0123456789"))
    data = on_backgrounds(digits, (0.9, 0.5), seed=0)
    assert list(data.parts) == ["train usual", "train odd", "test usual", "test odd"]
    assert 0.85 < len(data.parts["train usual"]) / 200 < 0.95
    assert 0.4 < len(data.parts["test usual"]) / 200 < 0.6
    for name, part in data.parts.items():
        land = part.x[:, 1].mean((1, 2)) > part.x[:, 2].mean((1, 2))  # greener than blue
        assert torch.equal(land, part.targets == int(name.endswith("usual")))
        level = (part.x.diff(dim=-1) == 0).all((1, 2, 3))
        assert torch.equal(level, ~land)
    white = Dataset(torch.ones(400, 1, 8, 8), digits.y, digits.classes)
    assert all(bool((part.x == 1.0).all()) for part in on_backgrounds(white).parts.values())


def test_rotated_images():
    digits = Dataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 2, ("a", "b"))
    data = rotated(digits, (0, 90))
    assert list(data.parts) == ["0", "90"]
    back = data.parts["90"].x.rot90(-1, (2, 3))  # they are turned counter-clockwise
    apart = (back[:, None] - digits.x).abs().flatten(2).amax(2)  # (30, 60)
    assert float(apart.amin(1).max()) < 1e-5
    assert len(apart.argmin(1).unique()) == 30


@pytest.mark.parametrize("make", [rotated, coloured])
def test_domains_need_images_and_enough_of_them(make):
    with pytest.raises(ValueError, match=r"2 examples are too few for [36] domains"):
        make(Dataset(torch.rand(2, 1, 8, 8), torch.arange(2), ("a", "b")))
    with pytest.raises(ValueError, match=r"made of images \(N, C, H, W\) of classes, not of \(9, 4\)"):
        make(Dataset(torch.rand(9, 4), torch.arange(9) % 2, ("a", "b")))
