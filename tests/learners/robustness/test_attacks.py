"""Attacks against closed forms, a loop over single numbers, and what they must leave alone."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data import dataset
from agentlib.learners.robustness import attack, perturb
from agentlib.learners.robustness.adversarial_training import AdversarialTraining, AdversarialTrainingConfig
from agentlib.metrics.attacks import margin
from agentlib.metrics.norms import project, project_l1, random_point, steepest
from agentlib.metrics.robustness import robust_accuracy
from agentlib.policies import CategoricalPolicy, EnsemblePolicy, MultiCategoricalPolicy, QPolicy

NORMS: list[Any] = ["linf", "l2", "l1"]
ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def network(seed=0, inputs=6, classes=3, double=True) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes))
    return net.double() if double else net


def length(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), ORDERS[norm], dim=1)


# Balls


def projected_by_bisection(row, epsilon):
    """Onto the l1 ball: the theta of soft thresholding, found by halving an interval."""
    if np.abs(row).sum() <= epsilon:
        return row
    low, high = 0.0, float(np.abs(row).max())
    for _ in range(200):
        theta = (low + high) / 2
        too_long = np.maximum(np.abs(row) - theta, 0).sum() > epsilon
        low, high = (theta, high) if too_long else (low, theta)
    return np.sign(row) * np.maximum(np.abs(row) - high, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0.01, 20))
def test_projection_onto_the_l1_ball(row, epsilon):
    expected = projected_by_bisection(np.array(row), epsilon)
    found = project_l1(torch.tensor([row], dtype=torch.float64), epsilon)
    assert torch.allclose(found[0], torch.from_numpy(expected), atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_are_the_nearest_points(norm):
    delta, epsilon = 3.0 * random(50, 6), 1.5
    found = project(delta, epsilon, norm)
    assert (length(found, norm) <= epsilon + 1e-12).all()
    assert torch.allclose(project(found, epsilon, norm), found, atol=1e-12)
    inside = length(delta, norm) <= epsilon
    assert torch.equal(found[inside], delta[inside])
    # No point of the ball is nearer: (d - P(d)) has an obtuse angle with every way from P(d) into the ball.
    others = random_point(delta, epsilon, norm, seeded(1))
    assert (((delta - found) * (others - found)).sum(1) <= 1e-9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_uniform_in_the_ball(norm):
    drawn = random_point(torch.zeros(40_000, 3, dtype=torch.float64), 2.0, norm, seeded())
    sizes = length(drawn, norm)
    assert float(sizes.max()) <= 2.0
    # The volume within radius r grows as r^3.
    shares = [(sizes <= 2.0 * radius).double().mean() for radius in (0.5, 0.8)]
    assert shares == pytest.approx([0.125, 0.512], abs=0.01)
    assert drawn.mean(0).abs().max() < 0.02


def test_steepest_directions():
    gradient = random(4, 250)
    gradient[3] = 0.0
    for norm in NORMS:
        direction = steepest(gradient, norm)
        assert length(direction, norm).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    sparse = steepest(gradient, "l1")
    assert (sparse[:3] != 0).sum(1).tolist() == [3, 3, 3]  # of 250
    assert torch.equal(sparse[0].nonzero()[:, 0], gradient[0].abs().topk(3).indices.sort().values)


# Linear models: the worst case is known


def linear_case(norm):
    weight, x = random(1, 8, seed=2), torch.rand(5, 8, generator=seeded(3), dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1])
    sign = 1.0 - 2.0 * y.double()  # the way in which the loss of y rises along the weight

    def model(x):
        return torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), x @ weight.T + 0.1], dim=1)

    epsilon = {"linf": 0.1, "l2": 0.3, "l1": 0.4}[norm]
    dual = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    return model, x, y, sign, weight[0], epsilon, torch.linalg.vector_norm(weight, dual)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_and_pgd_reach_the_worst_case_of_a_linear_model(norm):
    """margin -> margin - epsilon ||w||_dual."""
    model, x, y, sign, _, epsilon, dual = linear_case(norm)
    margin = -sign * (model(x)[:, 1])
    for steps in (1, 20):
        changed = attack(model, x, y, epsilon=epsilon, norm=norm, steps=steps, bounds=None, random_start=False)
        assert torch.allclose(-sign * model(changed)[:, 1], margin - epsilon * dual, atol=1e-9)
    step = epsilon / 5
    far = attack(model, x, y, epsilon=epsilon, norm=norm, steps=200, step_size=step, bounds=None, generator=seeded())
    assert torch.allclose(-sign * model(far)[:, 1], margin - epsilon * dual, atol=1e-3)
    target = attack(model, x, 1 - y, epsilon=epsilon, norm=norm, steps=1, bounds=None, targeted=True)
    assert torch.allclose(target, attack(model, x, y, epsilon=epsilon, norm=norm, steps=1, bounds=None))


def test_the_worst_case_within_bounds():
    """l-infinity: each number goes as far as epsilon and bounds let it. l1: the largest weights come first."""
    model, x, y, sign, weight, epsilon, _ = linear_case("linf")
    expected = (x + epsilon * (sign[:, None] * weight).sign()).clamp(0, 1)
    assert torch.allclose(attack(model, x, y, epsilon=epsilon, steps=1), expected)
    model, x, y, sign, weight, epsilon, _ = linear_case("l1")
    epsilon = 1.5
    expected = x.clone()
    for row in range(len(x)):
        left = epsilon
        for i in weight.abs().argsort(descending=True).tolist():
            way = float(sign[row] * weight[i].sign())
            room = float(1 - x[row, i] if way > 0 else x[row, i])
            expected[row, i] += way * min(room, left)
            left -= min(room, left)
    found = attack(model, x, y, epsilon=epsilon, norm="l1", steps=400, step_size=0.01, random_start=False)
    assert (length(found - x, "l1") <= epsilon + 1e-9).all()
    assert torch.allclose(model(found), model(expected), atol=0.03)


# Networks


def naive_pgd(model, x, y, epsilon, steps, step_size, low, high):
    """l-infinity, one example and one number at a time."""
    found = []
    for row, label in zip(x, y, strict=True):
        point = row.clone()
        for _ in range(steps):
            point = point.clone().requires_grad_()
            loss = -model(point[None]).log_softmax(1)[0, label]
            loss.backward()
            numbers = []
            for old, now, slope in zip(row.tolist(), point.tolist(), point.grad.tolist(), strict=True):
                moved = now + step_size * ((slope > 0) - (slope < 0))
                numbers.append(min(max(moved, old - epsilon, low), old + epsilon, high))
            point = torch.tensor(numbers, dtype=x.dtype)
        found.append(point)
    model.zero_grad(set_to_none=True)
    return torch.stack(found)


@pytest.mark.parametrize("steps", [1, 7])
def test_equals_a_loop_over_single_numbers(steps):
    net, x, y = network(), torch.rand(6, 6, generator=seeded(1), dtype=torch.float64), torch.arange(6) % 3
    size = 0.15 if steps == 1 else 2.5 * 0.15 / steps
    expected = naive_pgd(net, x, y, 0.15, steps, size, 0.0, 1.0)
    found = attack(net, x, y, epsilon=0.15, steps=steps, random_start=False)
    assert torch.allclose(found, expected, atol=1e-12)


def loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_ball_and_bounds_and_gets_worse_with_more_effort(norm):
    net, x, y = network(1), torch.rand(40, 6, generator=seeded(1), dtype=torch.float64), torch.arange(40) % 3
    epsilon = {"linf": 0.2, "l2": 0.4, "l1": 0.8}[norm]
    reached = [loss(net, x, y).mean()]
    efforts: list[dict[str, Any]] = [
        {"steps": 1},
        {"steps": 5, "random_start": False},
        {"steps": 40, "restarts": 4},
        {"steps": 40, "restarts": 4, "epsilon": 2 * epsilon},
    ]
    for settings_ in efforts:
        changed = attack(net, x, y, norm=norm, generator=seeded(), **{"epsilon": epsilon, **settings_})
        assert (length(changed - x, norm) <= settings_.get("epsilon", epsilon) + 1e-9).all()
        assert float(changed.min()) >= 0.0
        assert float(changed.max()) <= 1.0
        reached.append(loss(net, changed, y).mean())
    assert all(after >= before - 1e-3 for before, after in pairwise(reached))
    assert reached[-1] > reached[0] + 0.1


def test_restarts_keep_the_worst_of_each_example():
    net, x, y = network(2), torch.rand(30, 6, generator=seeded(2), dtype=torch.float64), torch.arange(30) % 3
    generator = seeded(5)
    single = [attack(net, x, y, epsilon=0.3, steps=3, generator=generator) for _ in range(4)]
    several = attack(net, x, y, epsilon=0.3, steps=3, restarts=4, generator=seeded(5))
    worst = torch.stack([loss(net, one, y) for one in single])
    assert torch.equal(loss(net, several, y), worst.amax(0))
    assert len(worst.argmax(0).unique()) > 1


def test_a_target_is_reached():
    net, x = network(3), random(30, 6)
    with torch.no_grad():
        net[1].weight.mul_(5.0)  # steep enough for every class to be somewhere
        net[3].bias.zero_()
    for target in range(3):
        y = torch.full((30,), target)
        changed = attack(net, x, y, epsilon=4.0, steps=40, targeted=True, bounds=None, generator=seeded())
        assert loss(net, changed, y).mean() < loss(net, x, y).mean() - 0.1
        reached = [(net(points).argmax(1) == target).double().mean() for points in (x, changed)]
        assert reached[1] > max(0.8, reached[0])
    with pytest.raises(ValueError, match="needs the label y"):
        attack(net, x, epsilon=0.1, targeted=True, bounds=None)


def test_without_labels_it_attacks_what_the_model_says():
    net, x = network(4), torch.rand(30, 6, generator=seeded(2), dtype=torch.float64)
    said = net(x).argmax(1)
    assert torch.equal(
        attack(net, x, epsilon=0.2, generator=seeded()), attack(net, x, said, epsilon=0.2, generator=seeded())
    )


def test_images_and_a_scale_for_each_number():
    net, x = network(inputs=12), torch.rand(5, 3, 2, 2, generator=seeded(), dtype=torch.float64)
    y = torch.arange(5) % 3
    scale = torch.linspace(0.0, 2.0, 12, dtype=torch.float64).view(3, 2, 2)  # 0 counts as 1
    changed = attack(net, x, y, epsilon=0.1, steps=1, scale=scale, bounds=None)
    unit = torch.where(scale == 0.0, 1.0, scale)
    assert torch.allclose((changed - x).abs(), (0.1 * unit).expand_as(x))
    scaled = attack(lambda u: net(u * 2.0), x / 2.0, y, epsilon=0.05, norm="l2", bounds=None, random_start=False)
    whole = attack(net, x, y, epsilon=0.05, norm="l2", scale=2.0, bounds=None, random_start=False)
    assert torch.allclose(whole, 2.0 * scaled)


def test_the_scale_of_a_number_that_never_varied():
    """A deviation of 0 counts as 1: divided by it, the room up to the bounds would be NaN at a bound."""
    net, x = network(), torch.rand(5, 6, generator=seeded(), dtype=torch.float64)
    x[:, 0], x[:, 1] = 0.0, 0.5
    found = attack(net, x, epsilon=0.1, scale=x.std(0), generator=seeded())
    assert torch.isfinite(found).all()
    assert (found - x).abs()[:, 1].tolist() == pytest.approx([0.1] * 5)
    assert ((found - x).abs() <= 0.1 * torch.cat([torch.ones(2), x.std(0)[2:]]) + 1e-9).all()
    with fresh_weights(0):
        policy = CategoricalPolicy(MLP(6, (8,)), 3)
    learner = AdversarialTraining(policy, adam(1e-3), AdversarialTrainingConfig(bounds=None), x.std(0).float())
    assert learner.scale[0] == 1.0


@pytest.mark.parametrize("norm", NORMS)
def test_scales_of_digits_some_of_whose_pixels_never_vary(norm):
    """Three of 64 pixels are always 0: in units of their deviation everything is finite, as with 1 in its place."""
    x, y = dataset("digits").x.flatten(1), dataset("digits").targets
    scale = x.std(0)
    unit = torch.where(scale == 0.0, 1.0, scale)
    assert int((scale == 0.0).sum()) == 3
    with fresh_weights(0):
        policy = CategoricalPolicy(MLP(64, (8,)), 10)

    def loss_at(x):
        return -policy.log_prob(policy(x)[0], y)

    how: Any = {"epsilon": 0.2, "norm": norm, "steps": 2, "bounds": (0.0, 1.0)}
    found = [perturb(loss_at, x, scale=one, random_start=True, generator=seeded(), **how) for one in (scale, unit)]
    assert torch.equal(*found)
    assert (length((found[0] - x) / unit, norm) <= 0.2 + 1e-4).all()
    assert (loss_at(found[0]) > loss_at(x)).double().mean() > 0.9
    assert torch.equal(attack(policy, x, y, scale=scale.numpy(), generator=seeded(), **how), found[0])
    assert torch.isfinite(perturb(loss_at, x, scale=0.0, **how)).all()
    accuracies = [robust_accuracy(policy, x, y, scale=one, **how) for one in (scale, unit)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_other_integers(kind):
    net, x = network(), torch.rand(5, 6, generator=seeded(), dtype=torch.float64)
    y = torch.arange(5) % 3
    expected = attack(net, x, y, epsilon=0.1, steps=3, generator=seeded())
    for labels in (y.to(kind), y[:, None]):
        assert torch.equal(attack(net, x, labels, epsilon=0.1, steps=3, generator=seeded()), expected)
    with pytest.raises(ValueError, match=r"each of the 3 classes 0 to 2, not torch\.float64"):
        attack(net, x, y.double(), epsilon=0.1)


def test_an_ensemble_that_is_too_sure_for_float32_is_attacked():
    """The slope of the log of a probability that underflows is NaN, and no step followed it."""
    with fresh_weights(0):
        ensemble: Any = EnsemblePolicy([CategoricalPolicy(MLP(2, ()), 2) for _ in range(2)])
    for member in ensemble.members:
        member.head.weight.data = torch.tensor([[300.0, 0.0], [0.0, 0.0]])
    x = torch.tensor([[1.0, 0.5]])
    model = lambda x: ensemble.as_logits(ensemble(x)[0])  # noqa: E731
    changed = attack(model, x, torch.tensor([1]), epsilon=0.25, targeted=True, generator=seeded())
    assert changed[0, 0] == pytest.approx(0.75)


def test_policies():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        policy = QPolicy(MLP(4, (16,)), n_actions=2)
    observation = torch.randn(64, 4, generator=seeded())
    before = policy.choose(policy(observation)[0])
    after = policy.choose(policy(attack(policy, observation, epsilon=0.5, bounds=None, generator=seeded()))[0])
    noise = policy.choose(policy(observation + 0.5 * torch.randn(64, 4, generator=seeded()).sign())[0])
    assert (before != after).double().mean() > (before != noise).double().mean() + 0.1


@pytest.mark.parametrize("distributional", [None, "c51", "quantile"])
def test_all_kinds_of_action_values(distributional):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        policy = QPolicy(MLP(4, (16,)), n_actions=3, distributional=distributional, n_atoms=11)
    observation = torch.randn(64, 4, generator=seeded())
    before = policy.choose(policy(observation)[0])
    after = policy.choose(policy(attack(policy, observation, epsilon=2.0, bounds=None, generator=seeded()))[0])
    assert (before != after).double().mean() > 0.3


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_on_values_do_not_depend_on_their_scale(norm):
    """Rewards in other units change no action, and no attack on it: the margin has one slope, whatever the scale."""
    with fresh_weights(0):
        policy = QPolicy(MLP(4, (32,)), n_actions=3)
    x, kept = torch.randn(300, 4, generator=seeded()), {k: v.clone() for k, v in policy.head.state_dict().items()}
    epsilon = {"linf": 0.5, "l2": 1.0, "l1": 2.0}[norm]

    def flipped(scale, **loss):
        policy.head.load_state_dict({name: scale * value for name, value in kept.items()})
        changed = attack(policy, x, epsilon=epsilon, norm=norm, steps=5, bounds=None, generator=seeded(), **loss)
        return float((policy(x)[0].argmax(1) != policy(changed)[0].argmax(1)).double().mean())

    shares = [flipped(scale) for scale in (1.0, 10_000.0, 1e-4)]
    assert shares[0] > 0.4
    assert shares[1:] == pytest.approx([shares[0]] * 2, abs=1 / 300)
    assert flipped(1.0, loss="margin") == shares[0]
    assert flipped(10_000.0, loss="cross_entropy") < 0.5 * shares[0]


def test_the_margin_is_the_largest_other_score_less_that_of_the_label():
    scores = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [-math.inf, 0.0, -2.0]], requires_grad=True)
    found = margin(scores, torch.tensor([0, 1, 1]))
    assert found.tolist() == [-0.5, 2.0, -2.0]
    (slope,) = torch.autograd.grad(found.sum(), scores)
    assert slope.tolist() == [[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0], [0.0, -1.0, 1.0]]


def test_the_loss_of_an_attack_by_name():
    net, x = network(double=False), torch.rand(40, 6, generator=seeded())
    y = torch.arange(40) % 3
    how: Any = {"epsilon": 0.3, "steps": 5}
    by_name = attack(net, x, y, loss="margin", generator=seeded(), **how)
    by_hand = attack(net, x, y, loss=margin, generator=seeded(), **how)
    assert torch.equal(by_name, by_hand)
    assert not torch.equal(by_name, attack(net, x, y, generator=seeded(), **how))
    assert [robust_accuracy(net, x, y, loss=one, **how).loss for one in (None, "margin", margin)] == [
        "cross_entropy",
        "margin",
        "own",
    ]
    with fresh_weights(0):
        values = QPolicy(MLP(6, (8,)), 3)
        choices = MultiCategoricalPolicy(MLP(6, (8,)), [3, 2])
        ensemble = EnsemblePolicy([QPolicy(MLP(6, (8,)), 3) for _ in range(2)])
    assert robust_accuracy(values, x, y, **how).loss == "margin"
    before, after = (ensemble.choose(ensemble(z)[0]) for z in (x, attack(ensemble, x, epsilon=2.0, bounds=None)))
    assert (before != after).double().mean() > 0.3
    with pytest.raises(ValueError, match="unknown loss 'hinge'; known: cross_entropy, margin"):
        attack(net, x, y, loss="hinge", **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one score for each option, which MultiCategoricalPolicy does not give"):
        attack(choices, x, loss="margin", **how)


def test_a_loss_of_your_own():
    net, x = network(), torch.rand(5, 6, generator=seeded(), dtype=torch.float64)
    changed = attack(net, x, torch.zeros(5), epsilon=0.1, steps=1, loss=lambda output, y: output[:, 0] - y)
    assert (net(changed)[:, 0] > net(x)[:, 0]).all()


# What is left alone


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_leaves_everything_as_it_was(outside):
    net: Any = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).requires_grad_(True)
    net[0].requires_grad_(False)
    net[1].eval()
    net(torch.randn(4, 6)).sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    modes = [module.training for module in net.modules()]
    host = torch.get_rng_state()
    with outside():
        x = torch.rand(4, 6, generator=seeded())
        kept = x.clone()
        changed = attack(net, x, torch.tensor([0, 1, 2, 0]), epsilon=0.1, restarts=2, generator=seeded())
        again = attack(net, x, torch.tensor([0, 1, 2, 0]), epsilon=0.1, restarts=2, generator=seeded())
    assert torch.equal(changed, again)  # eval mode inside: no dropout
    assert torch.equal(x, kept)
    assert not changed.requires_grad
    assert torch.equal(host, torch.get_rng_state())
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True, True, True]


def test_modes_are_put_back_after_an_error():
    net = network()

    def fails(output, y):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        attack(net, torch.rand(2, 6, dtype=torch.float64), torch.zeros(2), epsilon=0.1, loss=fails)
    assert net.training


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 8.0}, r"epsilon=8 is more than the whole range of the data \(1 in linf\).*8 / 255 = 0.0314"),
        ({"epsilon": 8.0, "norm": "l2"}, r"more than the whole range of the data \(2.44949 in l2\)"),
        ({"x": 255.0 * torch.rand(5, 6)}, r"x goes from .* to .*, outside of bounds=0 to 1.*x / 255"),
        ({"x": 255.0 * torch.rand(5, 6), "bounds": (0, 255)}, "less than one level of data in 0 to 255: meant is 25.5"),
        ({"epsilon": 0.0}, "epsilon > 0"),
        ({"epsilon": math.nan}, "epsilon > 0"),
        ({"steps": 0}, "steps and restarts of at least 1"),
        ({"norm": "l3"}, "unknown norm 'l3'; known: linf, l2, l1"),
        ({"restarts": 2, "random_start": False}, "restarts differ in their random start"),
    ],
)
def test_arguments_that_do_not_fit(changes, message):
    arguments: dict[str, Any] = {"x": torch.rand(5, 6), "y": torch.zeros(5).long(), "epsilon": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        attack(network(double=False), **arguments)


def test_images_of_integers():
    with pytest.raises(TypeError, match=r"not torch.uint8: for images of uint8 give x.float\(\) / 255"):
        attack(network(), torch.zeros(5, 6, dtype=torch.uint8), epsilon=0.1)


def test_the_pure_part_needs_no_labels():
    x = torch.zeros(3, 4)
    far = perturb(lambda x: x.sum(1), x, epsilon=0.5, norm="linf", steps=3, step_size=0.2, bounds=(0.0, 0.3))
    assert torch.equal(far, torch.full((3, 4), 0.3))


def test_a_start_beyond_the_bounds_keeps_one_step_from_ending_at_the_corner():
    """Of starts s in [-.3, .3] at a black pixel s + .375 is below .3 where s < -.075: for .375 of them."""
    x, how = torch.zeros(4, 5_000), {"epsilon": 0.3, "norm": "linf", "steps": 1, "step_size": 0.375}
    found = []
    for clip_start in (True, False):
        generator = torch.Generator().manual_seed(0)
        changed = perturb(
            lambda x: x.sum(1),
            x,
            bounds=(0.0, 1.0),
            random_start=True,
            clip_start=clip_start,
            generator=generator,
            **how,  # type: ignore[arg-type]
        )
        assert float(changed.min()) >= 0.0
        found.append(float((changed < 0.3 - 1e-6).float().mean()))
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.375, abs=0.015)
