"""Likelihoods of images that sum to one, samples that have them, and what they are held against."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch.distributions import Categorical
from torch.utils.flop_counter import FlopCounterMode

import agentlib
from agentlib.backbones import GatedPixelCNN, PixelTransformer
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.engine import run
from agentlib.learners.generative.pixel_cnn import PixelCNN, PixelCNNConfig
from agentlib.learners.generative.pixel_model import (
    PixelModel,
    logistic_log_probability,
    mixture_log_likelihood,
    outputs_for,
)
from agentlib.metrics.likelihoods import independent_bernoulli, independent_levels
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


def all_images(levels: int, *shape: int) -> torch.Tensor:
    """All that there are, `(levels^size, *shape)`, from 0 to 1."""
    values = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    return torch.tensor(list(itertools.product(values, repeat=math.prod(shape)))).double().view(-1, *shape)


def model_of(likelihood: Any, shape: tuple[int, ...], levels: int = 256, **how: Any) -> PixelModel:
    network = GatedPixelCNN(shape, outputs_for(likelihood, shape[0], 3), channels=6, layers=2, kernel=3, **how)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)  # far from uniform
    return PixelModel(network, likelihood, levels).double()


@pytest.mark.parametrize(
    ("likelihood", "levels", "shape"),
    [("bernoulli", 2, (1, 3, 3)), ("logistic", 4, (1, 2, 2)), ("logistic", 3, (3, 1, 2))],
)
def test_probabilities_of_all_images_sum_to_one(likelihood, levels, shape):
    model = model_of(likelihood, shape, levels)
    with torch.no_grad():
        probabilities = model.log_likelihood(all_images(levels, *shape)).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(probabilities.max()) > 2.0 / len(probabilities)


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 2.0, 6.0])
@pytest.mark.parametrize("mean", [-1.3, 0.1, 1.0])
def test_the_256_levels_sum_to_one_also_in_single_precision(mean, log_scale):
    for dtype, most in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        x = torch.linspace(-1.0, 1.0, 256, dtype=torch.float64).to(dtype)
        logs = logistic_log_probability(x, torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype), 256)
        assert torch.isfinite(logs).all()
        assert float(logs.exp().sum()) == pytest.approx(1.0, abs=most)


def test_bins_are_differences_of_the_logistic_distribution():
    levels, mean, log_scale = 7, torch.tensor(0.2).double(), torch.tensor(-1.5).double()
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    edges = (((x[1:] + x[:-1]) / 2 - mean) / log_scale.exp()).sigmoid()  # its distribution function
    expected = torch.cat([edges[:1], edges.diff(), 1 - edges[-1:]])
    torch.testing.assert_close(logistic_log_probability(x, mean, log_scale, levels).exp(), expected)


def test_a_mixture_moves_the_means_of_later_channels():
    """Against the sum over components, written out; channels: red, then green by red, then blue by both."""
    levels, mixtures = 9, 2
    numbers = torch.randn(5, mixtures * (1 + 6 + 3), 1, 1, dtype=torch.float64)
    x = torch.randint(levels, (5, 3, 1, 1)).double() / (levels - 1)
    each = numbers.view(5, mixtures, 10)
    wide = 2 * x[:, :, 0, 0] - 1
    total = torch.zeros(5, dtype=torch.float64)
    for m in range(mixtures):
        weight, (a, b, c) = each[:, :, 0].softmax(1)[:, m], each[:, m, 7:].tanh().T
        means = each[:, m, 1:4] + (-1.0 + 2.0 * m)
        moved = torch.stack([torch.zeros(5).double(), a * wide[:, 0], b * wide[:, 0] + c * wide[:, 1]], 1)
        logs = logistic_log_probability(wide, means + moved, each[:, m, 4:7] - 2.0, levels)
        total += weight * logs.sum(1).exp()
    torch.testing.assert_close(mixture_log_likelihood(numbers, x, levels)[:, 0, 0], total.log())


@pytest.mark.parametrize(
    ("likelihood", "levels", "shape"),
    [("bernoulli", 2, (1, 2, 2)), ("logistic", 3, (1, 2, 2)), ("logistic", 2, (3, 1, 1))],
)
def test_samples_have_the_model_s_probabilities(likelihood, levels, shape):
    model, n = model_of(likelihood, shape, levels), 40_000
    images = all_images(levels, *shape)
    with torch.no_grad():
        probabilities = model.log_likelihood(images).exp()
    samples = model.sample(n, generator=torch.Generator().manual_seed(0))
    digits = levels ** torch.arange(samples[0].numel() - 1.0, -1, -1, dtype=torch.float64)
    places = (samples.flatten(1) * (levels - 1)).round() @ digits
    counts = places.long().bincount(minlength=len(images))
    expected = n * probabilities
    statistic = float(((counts - expected).square() / expected).sum())  # chi-squared of len(images) - 1
    assert statistic < len(images) + 5 * math.sqrt(2 * len(images))
    assert Categorical(probabilities).entropy() < math.log(len(images))


def test_a_sample_costs_each_feature_once():
    """About one pass in multiplications, where naive sampling takes one pass for each of 144 pixels."""
    network = GatedPixelCNN((1, 12, 12), 1, channels=8, layers=3)
    model = PixelModel(network, "bernoulli")
    costs = []
    for work in (lambda: model.log_likelihood(torch.zeros(2, 1, 12, 12)), lambda: model.sample(2)):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            work()
        costs.append(counter.get_total_flops())
    assert 0.8 * costs[0] < costs[1] < 1.3 * costs[0]


@pytest.mark.slow
def test_a_trained_one_knows_the_distribution():
    """Images of two kinds and nothing else: ln 2 nats, and 0 once the label is known."""
    ramp = (torch.arange(4.0) / 3).expand(1, 4, 4)
    data = Dataset(torch.stack([ramp, ramp.flip(2)]).repeat(64, 1, 1, 1), torch.arange(128) % 2, ("right", "left"))
    sizes: Any = {"levels": 4, "mixtures": 4, "channels": 8, "layers": 2, "kernel": 3, "learning_rate": 5e-3}
    for conditional, nats in ((False, math.log(2)), (True, 0.0)):
        config = PixelCNNConfig(conditional=conditional, average=0.9, validation=0.0, **sizes)
        job = job_of(config, Problem(data=data, steps=800))
        for _ in run(job.learner, job.source, 800, compile=False):
            pass
        learner: Any = job.learner
        with torch.no_grad():
            found = -float(learner.log_likelihood(data.x, data.y).mean())
        assert nats - 1e-4 < found < nats + 0.1
        label = torch.arange(20) % 2 if conditional else None
        samples = learner.sample(20, label, torch.Generator().manual_seed(0))
        kinds = (samples[:, 0, 0, 0] > 0.5).long()
        assert float(((samples - data.x[kinds]).abs() < 1e-4).float().mean()) > 0.9
        assert label is None or torch.equal(kinds, label)


def test_a_run_is_judged_by_exact_likelihoods(tmp_path):
    how: Any = {"channels": 4, "layers": 2, "validation": 0.1, "eval_every": 2, "progress": False}
    result: Any = agentlib.train("pixel_cnn", data="digits", steps=3, out=tmp_path / "run", **how)
    assert {"test/nats", "test/bits_per_dim", "test/nearest_neighbor_accuracy"} <= set(result.measures)
    assert result.measures["test/bits_per_dim"] == pytest.approx(result.measures["test/nats"] / (64 * math.log(2)))
    assert 24 < result.references["test/nats"] < 26.5  # independent pixels
    assert "eval/nats" in result.metrics
    assert [path.name for path in result.pictures] == ["samples.png"]
    model: Any = load_model(tmp_path / "run")[0]
    images = model.sample(2, generator=torch.Generator().manual_seed(0))
    assert set(images.unique().tolist()) <= {0.0, 1.0}
    again: Any = load_model(save_model(model_of("logistic", (3, 2, 2), n_classes=2).float(), tmp_path / "other"))[0]
    assert again.sample(2, torch.tensor([0, 1])).shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match="takes a label below 2 for each image"):
        again.sample(2)
    with pytest.raises(ValueError, match="takes no labels"):
        model.sample(2, torch.tensor([0, 1]))


def test_independent_levels_are_independent_bits_for_two():
    train, test = (torch.rand(30, 1, 3, 3) < 0.4).float(), (torch.rand(20, 1, 3, 3) < 0.4).float()
    torch.testing.assert_close(independent_levels(train, test, 2), independent_bernoulli(train, test))
    uniform = independent_levels(torch.zeros(0, 4), torch.rand(5, 4), 17)
    torch.testing.assert_close(uniform, torch.full((5,), -4 * math.log(17)).double())


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (torch.rand(40, 6), {}, r"pixel_cnn learns images \(C, H, W\), and an example of this data is \(6,\)"),
        (torch.rand(40, 1, 4, 4), {"likelihood": "bernoulli"}, r"threshold=0\.5 or drawn_bits=True"),
        (torch.rand(40, 1, 4, 4), {}, "one of 256 levels, k / 255, and the data has"),
        (torch.randint(256, (40, 1, 4, 4)).float(), {}, "rescale them, x / 255"),
        (
            torch.zeros(40, 1, 4, 4),
            {"backbone": "cnn"},
            "takes backbone auto, pixel_transformer, or a module such as GatedPixelCNN",
        ),
        (torch.zeros(40, 1, 4, 4), {"kernel": 4}, "an odd side from 3 on, not 4"),
    ],
)
def test_runs_that_cannot_be(data, settings, message):
    with pytest.raises(ValueError, match=message):
        agentlib.train("pixel_cnn", data=Dataset(data), steps=1, progress=False, **settings)
    assert PixelCNN.examples(Dataset(torch.ones(1, 1, 2, 2)), PixelCNNConfig()).x.unique().tolist() == [1.0]


def test_masked_attention_is_another_network(tmp_path):
    how: Any = {"channels": 8, "layers": 1, "backbone": "pixel_transformer", "progress": False}
    x = (torch.rand(60, 1, 3, 4) < 0.3).float()
    result: Any = agentlib.train(
        "pixel_cnn", data=Dataset(x), steps=2, out=tmp_path / "run", likelihood="bernoulli", **how
    )
    model: Any = load_model(tmp_path / "run")[0]
    assert isinstance(model.network, PixelTransformer)
    with torch.no_grad():
        probabilities = model.double().log_likelihood(all_images(2, 1, 3, 4)).exp()
        assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-6)
    assert set(result.model.sample(5).unique().tolist()) <= {0.0, 1.0}
