import math

import numpy as np
import pytest
import torch
from torch import nn

from agentlib.backbones import MLP
from agentlib.metrics.calibration import (
    calibrated_confidence,
    fit_temperature,
    logits_of,
    reliability,
    reliability_of,
)
from agentlib.plots.charts import reliability_diagram
from agentlib.plots.pictures import confusion_matrix, lines, save
from agentlib.policies import CategoricalPolicy, EnsemblePolicy, QPolicy


def forecasts(n=5000, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.1, 1.0, n)
    return confidence, generator.random(n) < confidence**2


def by_hand(confidence, correct, bins):
    """ECE and MCE with a loop over bins (a, b]."""
    gaps = []
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins or (b == 0 and c == 0)]
        if inside:
            gaps.append((len(inside), abs(np.mean(confidence[inside]) - np.mean(correct[inside]))))
    return sum(n * gap for n, gap in gaps) / len(confidence), max(gap for _, gap in gaps)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_errors_by_hand(bins):
    confidence, correct = forecasts(800)
    found = reliability(confidence, correct, bins)
    assert (found.ece, found.mce) == pytest.approx(by_hand(confidence, correct, bins), abs=1e-12)


@pytest.mark.slow
def test_errors_of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    confidence, correct = forecasts()
    arguments = torch.from_numpy(confidence), torch.from_numpy(correct).long()
    # theirs takes probabilities of class 1; a confidence below .5 would be turned round, so two classes of one logit
    probabilities = torch.stack([1 - arguments[0], arguments[0]], 1)
    high = confidence > 0.5
    found = reliability(confidence[high], correct[high])
    for norm, mine in (("l1", found.ece), ("max", found.mce)):
        theirs = classification.multiclass_calibration_error(
            probabilities[high], arguments[1][high], num_classes=2, n_bins=15, norm=norm
        )
        assert mine == pytest.approx(float(theirs), abs=1e-6)


def test_bins_hold_their_upper_edge():
    found = reliability(np.array([0.0, 0.2, 0.2 + 1e-12, 1.0]), np.array([0, 1, 1, 1]), bins=5)
    assert found.counts.tolist() == [2, 1, 0, 0, 1]
    for bins in (10, 15, 20):  # where k / bins is rounded too
        edges = np.linspace(0, 1, bins + 1)[1:]
        assert reliability(edges, edges > 0, bins).counts.tolist() == [1] * bins


def test_a_perfect_forecaster_is_not_at_zero():
    """The noise floor: |accuracy - confidence| of a bin with n examples is about sqrt(2 p (1 - p) / (pi n))."""
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(20):
        confidence = generator.random(2000)
        errors.append(reliability(confidence, generator.random(2000) < confidence).ece)
    assert np.mean(errors) == pytest.approx(0.0255, abs=0.003)


def planted(temperature=2.5, n=20_000, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 5.0 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_temperature_is_found(seed):
    logits, labels = planted(seed=seed)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(2.5, abs=0.1)
    before, after = reliability_of(logits, labels), reliability_of(logits, labels, temperature)
    assert before.ece > 0.2
    assert after.ece < 0.02
    # No other temperature has a smaller loss.
    losses = {
        t: float(nn.functional.cross_entropy(logits / t, labels)) for t in (temperature * 0.97, temperature * 1.03)
    }
    assert float(nn.functional.cross_entropy(logits / temperature, labels)) < min(losses.values())


def test_temperature_of_what_is_always_right_or_never():
    logits = torch.eye(4).repeat(5, 1)
    labels = torch.arange(4).repeat(5)
    assert fit_temperature(logits, labels) <= 0.05
    assert fit_temperature(logits, (labels + 1) % 4) == pytest.approx(100.0)
    with torch.inference_mode():
        assert math.isfinite(fit_temperature(*planted(n=100)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3], "each of the 3 classes 0 to 2, not 0 to 3"),
        ([0, 1], "of shape .3,., each of the 3 classes 0 to 2, not torch.int64 of shape .2,."),
        ([0, 1, -1], "not -1 to 1"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(torch.zeros(3, 3), torch.tensor(labels))


def test_confidences_that_are_none():
    with pytest.raises(ValueError, match=r"a confidence is a probability, but they go from 0.5 to 3"):
        reliability(np.array([0.5, 3.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="vectors of one length"):
        reliability(np.zeros(3), np.zeros(2))


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        return make()


def test_confidence_of_policies():
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    policy = seeded(lambda: CategoricalPolicy(MLP(3, (8,)), 4)).train()
    sure = calibrated_confidence(policy)(x)
    assert torch.allclose(sure, policy(x)[0].softmax(1).amax(1))
    assert policy.training
    assert (calibrated_confidence(policy, temperature=5.0)(x) < sure).all()
    values = seeded(lambda: QPolicy(MLP(3, (8,)), 4))
    assert calibrated_confidence(values)(x).shape == (7,)
    ensemble = seeded(lambda: EnsemblePolicy([CategoricalPolicy(MLP(3, (8,)), 4) for _ in range(3)]))
    mean = torch.stack([member(x)[0].softmax(1) for member in ensemble.members]).mean(0)
    assert torch.allclose(calibrated_confidence(ensemble)(x), mean.amax(1))
    assert torch.allclose(logits_of(ensemble, x).softmax(1), mean, atol=1e-6)


@pytest.mark.slow
def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    logits, labels = planted(n=500)
    both = {"before": reliability_of(logits, labels), "after": reliability_of(logits, labels, 2.5)}
    drawn = {
        "reliability.png": reliability_diagram(both),
        "confusion.png": confusion_matrix(labels, logits.argmax(1), list("abcdefghij"), "Confusion"),
        "lines.png": lines([1, 2, 3], {"train": [3, 2, 1], "validation": [3, 2, 2]}, title="", x_label="", y_label=""),
    }
    for name, figure in drawn.items():
        assert save(figure, tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="one or two models"):
        reliability_diagram({})


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.inference_mode])
def test_a_temperature_with_a_class_that_is_ruled_out(outside):
    """It has no part in the likelihood: the temperature is that of the other classes."""
    logits, labels = planted(n=2000, classes=4)
    masked = torch.cat([logits, torch.full((2000, 1), -math.inf, dtype=torch.float64)], 1)
    with outside():
        assert fit_temperature(masked, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)
    assert reliability_of(masked, labels, 2.5).ece == pytest.approx(reliability_of(logits, labels, 2.5).ece)
    masked[7, labels[7]] = -math.inf
    with pytest.raises(ValueError, match=f"rules out the label of example 7, {int(labels[7])}: no temperature"):
        fit_temperature(masked, labels)


@pytest.mark.parametrize("use", [fit_temperature, reliability_of])
def test_logits_that_are_nan(use):
    logits, labels = planted(n=10)
    logits[3] = math.nan
    with pytest.raises(ValueError, match="1 of 10 rows of logits give no probabilities, such as"):
        use(logits, labels)


def test_a_policy_whose_logits_are_nan_has_no_confidence():
    policy = seeded(lambda: CategoricalPolicy(MLP(3, (8,)), 4))
    with pytest.raises(ValueError, match="rows of logits give no probabilities"):
        calibrated_confidence(policy)(torch.tensor([[0.0, math.nan, 0.0]]))


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_other_integers(kind):
    logits, labels = planted(n=500)
    assert fit_temperature(logits, labels.to(kind)) == fit_temperature(logits, labels)
    assert fit_temperature(logits, labels[:, None]) == fit_temperature(logits, labels)
    assert reliability_of(logits, labels.to(kind)).ece == reliability_of(logits, labels).ece
    with pytest.raises(ValueError, match=r"each of the 10 classes 0 to 9, not torch\.float32"):
        fit_temperature(logits, labels.float())


def test_an_ensembles_logits_do_not_underflow():
    """In float32 e^-200 is 0; the log of the members' average is -200 all the same."""
    ensemble = EnsemblePolicy([seeded(lambda: CategoricalPolicy(MLP(3, (8,)), 2)) for _ in range(2)])
    output = torch.tensor([[[200.0, 0.0], [200.0, 0.0]], [[0.0, -math.inf], [0.0, 0.0]]])  # (2, members, 2)
    expected = torch.tensor([[0.0, -200.0], [math.log(0.75), math.log(0.25)]])
    torch.testing.assert_close(ensemble.as_logits(output), expected)
