"""Targets and labels in other shapes and dtypes than the outputs: the same numbers, or an error."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import nn

from agentlib.backbones import MLP
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset
from agentlib.learners.imitation.bc import squared_error
from agentlib.learners.supervised.classifier import balanced_weights, cross_entropy
from agentlib.learners.supervised.regressor import error_of
from agentlib.metrics.attacks import attack
from agentlib.metrics.calibration import fit_temperature, reliability_of
from agentlib.metrics.classification import classification_measures, regression_measures
from agentlib.metrics.robustness import robust_accuracy
from agentlib.metrics.samples import agreement, pixel_deviation
from agentlib.metrics.targets import labels_for, numbers_for
from agentlib.policies import CategoricalPolicy, GaussianPolicy

N = 6
Y = torch.linspace(-1.0, 1.0, N)
OUTPUT = 2.0 * Y[:, None]
LABELS = torch.arange(N) % 3
LOGITS = torch.eye(3)[LABELS]
ARRAYS = [LABELS.numpy().astype(kind) for kind in ("int64", "int32", "uint8", ">i2")]


def attacked(x, y, model=nn.Identity()):
    return attack(model, x, y, epsilon=0.1, random_start=False)


with fresh_weights(0):
    POLICY = CategoricalPolicy(MLP(3, ()), 3)
OF_3 = "of the 3 classes 0 to 2"
USES: list[tuple[str, str, Any]] = [
    ("labels", "a class from 0", cross_entropy),
    ("y", OF_3, attacked),
    ("y", OF_3, partial(attacked, model=POLICY)),
    ("y", OF_3, lambda x, y: robust_accuracy(nn.Identity(), x, y, epsilon=0.1)),
    ("labels", OF_3, reliability_of),
    ("labels", OF_3, fit_temperature),
    ("labels", OF_3, lambda x, y: classification_measures(x, y, torch.full((3,), 1 / 3), 1.0)),
]
"""Name of the argument, what it holds, and the function."""


@pytest.mark.parametrize("y", [Y, Y[:, None], Y.double()])
def test_numbers_in_the_shape_of_the_output(y):
    """Broadcast to (6, 6), the mean squared error would be the variances together, 2.3, in place of 0.467."""
    mse = float(Y.square().mean())
    assert float(error_of(OUTPUT, y).mean()) == pytest.approx(mse)
    measures = {m.name: m.value for m in regression_measures(OUTPUT, y, torch.zeros(1))}
    assert measures["test/rmse"] == pytest.approx(mse**0.5)
    with fresh_weights(0):
        policy = GaussianPolicy(MLP(1, ()), spaces.Box(-9.0, 9.0, (1,)))
    output = torch.cat([OUTPUT, torch.zeros(N, 1)], 1)  # means, and log deviations
    assert float(squared_error(policy, output, y).mean()) == pytest.approx(mse)
    assert policy.log_prob(output, y).tolist() == pytest.approx((-0.5 * Y.square() - 0.918939).tolist(), abs=1e-5)


def test_targets_of_several_axes_and_whole_numbers():
    output = torch.zeros(N, 4)
    assert numbers_for(output, torch.arange(4 * N).view(N, 2, 2)).tolist() == torch.arange(4.0 * N).view(N, 4).tolist()
    assert numbers_for(torch.zeros(N), Y[:, None]).shape == (N,)


@pytest.mark.parametrize("shape", [(N + 1,), (1, N), (N, 2), ()])
def test_numbers_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"targets of shape .* do not fit outputs of shape \(6, 1\)"):
        error_of(OUTPUT, torch.zeros(shape))


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.int(), LABELS.to(torch.uint8), *ARRAYS])
def test_labels_as_whole_numbers(labels):
    """Of shape (6, 1), they were compared with all predictions: an accuracy of 1/3 in place of 1."""
    assert labels_for((N,), labels).dtype == torch.int64
    torch.testing.assert_close(cross_entropy(LOGITS, labels), torch.full((N,), 0.551445), rtol=1e-5, atol=0.0)
    weighted = cross_entropy(LOGITS, labels, class_weights=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(weighted, 0.551445 * (1.0 + LABELS), rtol=1e-5, atol=0.0)
    measures = {m.name: m.value for m in classification_measures(LOGITS, labels, torch.full((3,), 1 / 3), 1.0)}
    assert measures["test/accuracy"] == 1.0
    assert robust_accuracy(nn.Identity(), LOGITS, labels, epsilon=0.1) == 1.0
    assert agreement(lambda x: x.argmax(1), LOGITS, labels) == 1.0
    assert torch.equal(attacked(LOGITS, labels), attacked(LOGITS, LABELS))
    assert reliability_of(LOGITS, labels).accuracy[8] == 1.0
    assert fit_temperature(LOGITS, labels) == fit_temperature(LOGITS, LABELS)
    assert balanced_weights(labels, 3) == (1.0, 1.0, 1.0)
    assert pixel_deviation(LOGITS, labels) == 0.0
    if isinstance(labels, torch.Tensor):
        data = Dataset(LOGITS, labels, ("a", "b", "c"))
        assert (data.targets.dtype, data.targets.tolist()) == (torch.int64, LABELS.tolist())
    assert POLICY.log_prob(LOGITS, labels).tolist() == pytest.approx([-0.551445] * N, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (LABELS.float(), "torch.float32 of shape (6,)"),
        (LABELS.numpy().astype(float), "float64 of shape (6,)"),
        (LABELS.numpy().astype(str), "<U21 of shape (6,)"),
        (LOGITS.long(), "torch.int64 of shape (6, 3)"),
        (LABELS[:5], "torch.int64 of shape (5,)"),
        (LABELS.numpy()[:5], "int64 of shape (5,)"),
    ],
)
def test_labels_that_do_not_fit(labels, found):
    for name, classes, use in USES:
        message = f"{name} must be integers of shape (6,), each {classes}, not {found}"
        with pytest.raises(ValueError, match=re.escape(message)):
            use(LOGITS, labels)


@pytest.mark.parametrize("labels", [LABELS + 1, (LABELS + 1).numpy(), (LABELS + 1).to(torch.uint8)])
def test_labels_beyond_the_classes(labels):
    """The attack and the temperature gave messages of torch, and the reliability counted them as errors."""
    for name, classes, use in USES[1:]:
        with pytest.raises(ValueError, match=f"{name} must be integers of shape .6,., each {classes}, not 1 to 3"):
            use(LOGITS, labels)
    with pytest.raises(ValueError, match="each of the 3 classes 0 to 2, not -1 to 1"):
        reliability_of(LOGITS, LABELS - 1)
