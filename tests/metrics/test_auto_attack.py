"""Attacks in a row: on linear models they end at the optimum; by definition; and beside torchattacks' where it is."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from agentlib.metrics.attacks import attack, margin
from agentlib.metrics.auto_attack import apgd, auto_attack, marks, square, targeted_dlr
from agentlib.metrics.robustness import robust_accuracy, transfer_matrix


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, classes=5, widest=32) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, widest), nn.Tanh(), nn.Linear(widest, classes))


def examples(model, n=60):
    x = torch.rand(n, 1, 6, 6, generator=seeded(1))
    return x, model(x).argmax(1).detach()


def test_marks_are_those_of_the_paper():
    assert marks(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert marks(10)[0] == 3


def test_the_targeted_loss_does_not_see_scale_and_shift():
    logits = torch.tensor([[4.0, 1.0, 3.0, -1.0, 0.0]])
    y, target = torch.tensor([0]), torch.tensor([2])
    expected = -(4.0 - 3.0) / (4.0 - (1.0 + 0.0) / 2)
    assert float(targeted_dlr(logits, y, target)) == pytest.approx(expected)
    assert float(targeted_dlr(1e3 * logits + 7.0, y, target)) == pytest.approx(expected, rel=1e-4)
    assert float(targeted_dlr(logits, target, y)) == pytest.approx(-expected)  # above 0 where the target is ahead


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_optimum_of_a_linear_model(norm):
    """The margin of two classes is at most m + epsilon ||w||_q, q = 1 for linf and 2 for l2, and APGD gets there."""
    w = torch.randn(12, generator=seeded(), dtype=torch.float64)
    x = torch.randn(7, 12, generator=seeded(1), dtype=torch.float64)

    def height(points):
        return points @ w, torch.zeros(len(points), dtype=torch.bool)

    found = apgd(height, x, epsilon=0.3, norm=norm, steps=30, generator=seeded(2))
    best = x @ w + 0.3 * float(torch.linalg.vector_norm(w, 1 if norm == "linf" else 2))
    torch.testing.assert_close(found @ w, best)
    order = math.inf if norm == "linf" else 2
    assert float(torch.linalg.vector_norm(found - x, order, dim=1).max()) <= 0.3 + 1e-9


def test_steps_halve_until_a_peak_inside_of_the_ball_is_found():
    x, peak = torch.zeros(5, 1), torch.tensor([[0.11], [-0.07], [0.2], [0.013], [-0.29]])

    def height(points):
        return -(points - peak).square().sum(1), torch.zeros(5, dtype=torch.bool)

    found = apgd(height, x, epsilon=0.3, steps=100, generator=seeded())
    torch.testing.assert_close(found, peak, atol=0.005, rtol=0)


def test_squares_find_the_optimum_of_a_linear_model():
    w = torch.randn(2, 4, 4, generator=seeded(), dtype=torch.float64)
    x = torch.rand(5, 2, 4, 4, generator=seeded(1), dtype=torch.float64)

    def height(points):
        return (points * w).sum((1, 2, 3)), torch.zeros(len(points), dtype=torch.bool)

    found = square(height, x, epsilon=0.2, queries=1_000, bounds=(0.0, 1.0), generator=seeded(2))
    best = torch.where(w > 0, (x + 0.2).clamp_max(1.0), (x - 0.2).clamp_min(0.0))
    torch.testing.assert_close(found, best)


@pytest.mark.parametrize(("classes", "norm"), [(5, "linf"), (5, "l2"), (2, "linf")])
def test_what_is_changed_stays_in_the_ball_and_fools_and_the_rest_stays(classes, norm):
    model = network(classes=classes)
    x, y = examples(model)
    epsilon = 0.06 if norm == "linf" else 0.25
    found = auto_attack(model, x, y, epsilon=epsilon, norm=norm, steps=20, queries=50, generator=seeded())
    order = math.inf if norm == "linf" else 2
    assert float(torch.linalg.vector_norm((found - x).flatten(1), order, dim=1).max()) <= epsilon + 1e-6
    assert bool(((found >= 0) & (found <= 1)).all())
    errs = model(found).argmax(1) != y
    assert 0 < int(errs.sum()) < len(x)
    assert torch.equal(found[~errs], x[~errs])
    weaker = attack(model, x, y, epsilon=epsilon, norm=norm, steps=20, generator=seeded())
    assert int(errs.sum()) >= int((model(weaker).argmax(1) != y).sum())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hidden_gradients_do_not_help():
    """Logits times 10,000: the cross-entropy is 0 in float32, and PGD on it finds nothing."""
    plain = network()
    hidden = nn.Sequential(plain, Times(1e4))
    x, y = examples(plain)
    how: Any = {"epsilon": 0.06, "steps": 20}
    assert float(robust_accuracy(hidden, x, y, loss="cross_entropy", random_start=False, **how)) > 0.9
    strong = robust_accuracy(hidden, x, y, attack="auto", queries=0, **how)
    assert strong.loss == "auto"
    assert float(strong) == pytest.approx(
        float(robust_accuracy(plain, x, y, attack="auto", queries=0, **how)), abs=0.02
    )


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_no_gradient_is_needed():
    """A network of steps has gradients of 0: APGD stays where it began, and squares go on."""
    plain = network()

    class Steps(nn.Module):
        def forward(self, x):
            return plain((x * 100).round() / 100 + 0.0 * x)

    x, y = examples(plain)
    blind, seeing = (robust_accuracy(Steps(), x, y, epsilon=0.06, attack="auto", steps=5, queries=q) for q in (0, 200))
    assert float(seeing) < float(blind) - 0.1


@pytest.mark.parametrize(("ruled_out", "norm"), [(1, "l2"), (2, "linf"), (2, "l2")])
def test_classes_that_are_ruled_out_do_not_weaken_it(ruled_out, norm):
    """Of five classes, one or two always have -inf: the same as a network without them."""
    plain = network(classes=5 - ruled_out)

    class Masked(nn.Module):
        def forward(self, x):
            return functional.pad(1e6 * plain(x), (0, ruled_out), value=-math.inf)  # PGD's gradient is hidden, too

    x, y = examples(plain)
    how: Any = {"epsilon": 0.06 if norm == "linf" else 0.25, "norm": norm, "steps": 20}
    found = auto_attack(Masked(), x, y, queries=0, generator=seeded(), **how)
    assert bool(found.isfinite().all())
    left = float((plain(found).argmax(1) == y).double().mean())
    assert left == pytest.approx(float(robust_accuracy(plain, x, y, loss="margin", restarts=3, **how)), abs=0.04)


@pytest.mark.parametrize("shape", [(1, 400), (1, 1, 4, 100), (1, 1, 100, 4), (1, 1, 20, 20)])
def test_the_first_square_covers_four_fifths(shape):
    seen = list[torch.Tensor]()

    def height(points):
        seen.append(points.clone())
        return torch.zeros(1), torch.zeros(1, dtype=torch.bool)

    flips = 0.0
    for seed in range(30):
        seen.clear()
        square(height, torch.zeros(shape), epsilon=0.1, queries=1, generator=seeded(seed))
        flips += float((seen[0] != seen[1]).double().mean()) / 30
    assert flips == pytest.approx(0.4, abs=0.1)  # half of them have the other sign


def test_bad_arguments_of_the_automatic_attack():
    model = network()
    x, y = examples(model)
    with pytest.raises(ValueError, match="for the norms linf and l2, not 'l1'"):
        auto_attack(model, x, y, epsilon=0.1, norm="l1")
    with pytest.raises(ValueError, match="targets and queries are 0 or more"):
        auto_attack(model, x, y, epsilon=0.1, queries=-1)
    with pytest.raises(ValueError, match="needs epsilon > 0"):
        auto_attack(model, x, y, epsilon=0.0)
    with pytest.raises(ValueError, match="outside of bounds"):
        auto_attack(model, 255 * x, y, epsilon=0.1)
    with pytest.raises(ValueError, match="the attack is pgd or auto, not 'autoattack'"):
        robust_accuracy(model, x, y, epsilon=0.1, attack="autoattack")  # type: ignore[arg-type]


def test_examples_for_one_model_are_judged_by_all():
    models = {"first": network(0), "second": network(1, widest=8)}
    x, y = examples(models["first"])
    matrix = transfer_matrix(models, x, y, epsilon=0.06, steps=10, seed=3)
    assert matrix["first"]["first"] == float(robust_accuracy(models["first"], x, y, epsilon=0.06, steps=10, seed=3))
    changed = attack(models["first"], x, y, epsilon=0.06, steps=10, generator=seeded(3))
    assert matrix["first"]["second"] == float((models["second"](changed).argmax(1) == y).double().mean())
    how: Any = {"epsilon": 0.06, "steps": 10, "queries": 20, "seed": 3}
    strong = transfer_matrix(models, x, y, attack="auto", **how)
    assert strong["first"]["first"] == float(robust_accuracy(models["first"], x, y, attack="auto", **how))
    unchanged = transfer_matrix(models, x, y, epsilon=0.0)
    assert unchanged["first"]["second"] == float(robust_accuracy(models["second"], x, y, epsilon=0.0)) < 1.0
    with pytest.raises(ValueError, match="the attack is pgd or auto, not 'apgd'"):
        transfer_matrix(models, x, y, epsilon=0.06, attack="apgd")  # type: ignore[arg-type]


@pytest.mark.slow
def test_torchattacks_finds_as_much():
    """APGD: within two in a hundred. Theirs of squares never reach the last row and column, and find less."""
    torchattacks = pytest.importorskip("torchattacks")
    model, n = network(widest=64), 100
    x, y = examples(model, n)

    def left(points):
        return float((model(points).argmax(1) == y).double().mean())

    def entropy(points):
        logits = model(points)
        return functional.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y

    def margins(points):
        logits = model(points)
        return margin(logits, y), logits.argmax(1) != y

    how: Any = {"epsilon": 0.05, "bounds": (0.0, 1.0), "generator": seeded()}
    theirs = torchattacks.APGD(model, eps=0.05, steps=50)(x, y)
    assert left(apgd(entropy, x, steps=50, **how)) == pytest.approx(left(theirs), abs=0.021)
    theirs = torchattacks.Square(model, eps=0.05, n_queries=300, p_init=0.8)(x, y)
    assert left(square(margins, x, queries=300, **how)) <= left(theirs) + 0.03
