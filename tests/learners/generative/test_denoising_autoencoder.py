"""Denoising against closed forms: the best linear map, and the score of Gaussians and of a mixture of them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

import agentlib
from agentlib.backbones import MLP
from agentlib.core import Cosine
from agentlib.data import Batches, Dataset, parts
from agentlib.engine import run
from agentlib.families.generative import GenerativeFacts
from agentlib.learners.generative.denoising_autoencoder import (
    RECIPE,
    DenoisingAutoencoder,
    DenoisingAutoencoderConfig,
    contraction,
    masked,
    squared_errors,
)
from agentlib.metrics.likelihoods import linear_reconstruction
from agentlib.testing import check_learner

COVARIANCE = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
NOISE = 0.8


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


def gaussian(n: int) -> Tensor:
    """Examples whose mean and covariance are exactly MEAN and COVARIANCE."""
    x = torch.randn(n, 3, dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    return white @ torch.linalg.cholesky(COVARIANCE).T + MEAN


def wiener() -> Tensor:
    return COVARIANCE @ torch.linalg.inv(COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64))


def learner_of(data: Dataset, config: DenoisingAutoencoderConfig) -> DenoisingAutoencoder:
    inputs = data.x[0].numel()
    return DenoisingAutoencoder.build(MLP(inputs, config.net_arch, "tanh"), config, GenerativeFacts(data))


def score_with(reconstruct: Callable[[Tensor], Tensor], x: Tensor, noise: float) -> Tensor:
    """The learner's score of x where its model is a reconstruction in closed form."""
    learner = learner_of(Dataset(x.float()), DenoisingAutoencoderConfig(noise=noise, latent_dim=1, net_arch=()))
    learner.model.forward = reconstruct  # type: ignore[method-assign, assignment]
    return learner.score(x)


def test_contract():
    check_learner(DenoisingAutoencoder)


def test_errors_are_sums_over_an_example():
    assert squared_errors(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)).tolist() == [36.0, 36.0]


def test_the_best_linear_map_is_where_the_expected_error_is_stationary():
    """E|x - W x~|^2 = tr C - 2 tr(W C) + tr(W (C + s^2 I) W'), by hand; its gradient in W is 0 at C (C + s^2 I)^-1."""
    weight = wiener().requires_grad_()
    total = COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64)
    error = COVARIANCE.trace() - 2 * (weight @ COVARIANCE).trace() + (weight @ total @ weight.T).trace()
    (slope,) = torch.autograd.grad(error, weight)
    torch.testing.assert_close(slope, torch.zeros(3, 3, dtype=torch.float64), atol=1e-12, rtol=0.0)
    assert float(error.detach()) == pytest.approx(NOISE**2 * float(wiener().trace()))
    x = MEAN + torch.randn(7, 3, dtype=torch.float64)
    expected = MEAN + (x - MEAN) @ wiener().T
    torch.testing.assert_close(linear_reconstruction(gaussian(50), x, NOISE), expected)


def test_the_best_reconstruction_gives_the_score_of_the_noisy_density():
    x = (MEAN + 2.0 * torch.randn(9, 3, dtype=torch.float64)).requires_grad_()
    noisy = MultivariateNormal(MEAN, COVARIANCE + NOISE**2 * torch.eye(3, dtype=torch.float64))
    (expected,) = torch.autograd.grad(noisy.log_prob(x).sum(), x)
    found = score_with(lambda noisy_x: linear_reconstruction(gaussian(50), noisy_x, NOISE), x.detach(), NOISE)
    torch.testing.assert_close(found, expected)


def test_tweedie_s_formula_for_a_mixture():
    """E[x | x~] of a mixture of two Gaussians, by responsibilities, gives the gradient of its noisy log density."""
    centers, deviation, noise = torch.tensor([-1.0, 1.5]).double(), 0.4, 0.6
    total = deviation**2 + noise**2
    x = torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None].requires_grad_()
    noisy = MixtureSameFamily(Categorical(torch.ones(2).double()), Normal(centers, math.sqrt(total)))
    (expected,) = torch.autograd.grad(noisy.log_prob(x).sum(), x)

    def posterior_mean(x: Tensor) -> Tensor:
        share = (-0.5 * (x - centers).square() / total).softmax(1)  # (31, 2)
        return (share * (centers + deviation**2 / total * (x - centers))).sum(1, keepdim=True)

    torch.testing.assert_close(score_with(posterior_mean, x.detach(), noise), expected)


def test_a_model_without_change_has_the_error_of_the_noise():
    made: Any = DenoisingAutoencoder.tiny()
    learner, source = made
    learner.model.forward = lambda x: x
    learner.step = torch.nn.Module()
    learner.step.forward = lambda loss, clock: loss
    losses = [float(update.metrics["loss"]) for _, update in run(learner, source, 200, compile=False)]
    assert sum(losses) / len(losses) == pytest.approx(4 * 0.3**2, rel=0.05)


@pytest.mark.slow
def test_a_linear_one_reaches_the_best_linear_map():
    data = Dataset(gaussian(20_000).float())
    config = DenoisingAutoencoderConfig(
        learning_rate=Cosine(1e-2), batch_size=1_000, noise=NOISE, latent_dim=3, net_arch=()
    )
    learner = learner_of(data, config)
    for _ in run(learner, Batches(data, config.batch_size), 2_000, compile=False):
        pass
    model: Any = learner.model
    weight = model.decoder.head.weight.detach() @ model.head.weight.detach()
    torch.testing.assert_close(weight.double(), wiener(), atol=0.02, rtol=0.0)
    with torch.no_grad():
        torch.testing.assert_close(model(MEAN[None].float()).double(), MEAN[None], atol=0.02, rtol=0.0)


@pytest.mark.slow
def test_a_deep_one_learns_the_score_of_a_mixture():
    centers, deviation, noise = torch.tensor([-1.0, 1.5]), 0.3, 0.5
    data = Dataset(centers[torch.randint(2, (20_000, 1))] + deviation * torch.randn(20_000, 1))
    config = DenoisingAutoencoderConfig(
        learning_rate=Cosine(3e-3), batch_size=1_000, noise=noise, latent_dim=8, net_arch=(64, 64)
    )
    learner = learner_of(data, config)
    for _ in run(learner, Batches(data, config.batch_size), 3_000, compile=False):
        pass
    x = torch.linspace(-2, 2.5, 40)[:, None].requires_grad_()
    total = math.sqrt(deviation**2 + noise**2)
    noisy = MixtureSameFamily(Categorical(torch.ones(2)), Normal(centers, total))
    (expected,) = torch.autograd.grad(noisy.log_prob(x).sum(), x)
    with torch.no_grad():
        found = learner.score(x)
    assert float((found - expected).abs().max()) < 0.25
    assert float((found - expected).square().mean().sqrt()) < 0.08 * float(expected.square().mean().sqrt()) + 0.05


def test_a_run_is_judged_by_its_reconstructions(tmp_path):
    pytest.importorskip("sklearn")
    settings: Any = {"steps": 200, "eval_every": 100, "out": tmp_path / "run", "progress": False}
    result: Any = agentlib.train(RECIPE, data="digits", **settings)
    (measure,) = result.judged
    assert measure.name == "test/reconstruction_error"
    assert measure.whose == "the best linear map"
    assert "eval/reconstruction_error" in result.metrics
    assert [path.name for path in result.pictures] == ["reconstructions.png"]
    floors = json.loads((tmp_path / "run" / "results.json").read_text())["reconstruction_floors"]
    assert floors["the noisy examples"] == pytest.approx(64 * 0.3**2, rel=0.02)
    assert measure.value < floors["the training mean"] < floors["the noisy examples"]
    assert measure.reference == floors["the best linear map"] < floors["the training mean"]


def test_configs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"DenoisingAutoencoderConfig\.noise must be at least 1e-06"):
        DenoisingAutoencoderConfig(noise=0.0)


@pytest.mark.parametrize(("shape", "patch"), [((6,), 1), ((2, 5, 7), 1), ((2, 5, 7), 3)])
def test_a_share_is_hidden_and_the_rest_is_left(shape, patch):
    x = 1.0 + torch.rand(2_000, *shape)
    seen = masked(x, 0.75, patch)
    assert torch.equal(seen[seen != 0], x[seen != 0])
    assert float((seen == 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    if patch == 3:
        squares = (seen != 0)[:, :, :3, :3].flatten(1).float()
        assert set(squares.mean(1).tolist()) == {0.0, 1.0}, "a square is hidden whole, in all channels"


@pytest.mark.slow
def test_a_linear_masked_one_reaches_the_best_map():
    """Hidden with probability p: cov(x, x~) = (1 - p) C, and cov(x~) = (1 - p)^2 C + p (1 - p) diag(C + mean mean')."""
    p = 0.4
    config = DenoisingAutoencoderConfig(
        learning_rate=Cosine(1e-2), batch_size=1_000, corruption="masking", mask_ratio=p, latent_dim=3, net_arch=()
    )
    data = Dataset(gaussian(20_000).float())
    learner = learner_of(data, config)
    for _ in run(learner, Batches(data, config.batch_size), 2_000, compile=False):
        pass
    second = (COVARIANCE + MEAN[:, None] * MEAN).diagonal().diag()
    seen = (1 - p) ** 2 * COVARIANCE + p * (1 - p) * second
    expected = (1 - p) * COVARIANCE @ torch.linalg.inv(seen)
    model: Any = learner.model
    weight = model.decoder.head.weight.detach() @ model.head.weight.detach()
    torch.testing.assert_close(weight.double(), expected, atol=0.03, rtol=0.0)


def test_contraction_is_the_squared_jacobian_of_the_codes():
    weight = torch.randn(4, 3, dtype=torch.float64)
    x = torch.randn(50_000, 3, dtype=torch.float64)
    linear = contraction(lambda x: x @ weight.T, x, 0.7)  # at any deviation
    assert float(linear) == pytest.approx(float(weight.square().sum()), rel=0.02)
    slopes = weight * (1 - (x @ weight.T).tanh().square())[:, :, None]  # (N, 4, 3)
    curved = contraction(lambda x: (x @ weight.T).tanh(), x, 1e-3)
    assert float(curved) == pytest.approx(float(slopes.square().sum((1, 2)).mean()), rel=0.02)


def test_a_bottleneck_is_held_against_principal_components(tmp_path):
    pytest.importorskip("sklearn")
    how: Any = {"data": "digits", "backbone": "mlp", "steps": 5, "progress": False}
    result: Any = agentlib.train(RECIPE, corruption="none", latent_dim=8, contraction=0.01, **how)
    (measure,) = result.judged
    assert measure.whose == "the best linear map by 8 codes"
    assert measure.reference < 64 * 0.05, "little is lost by eight principal components"
    masks: Any = agentlib.train(RECIPE, corruption="masking", mask_ratio=0.75, patch=2, out=tmp_path / "run", **how)
    assert masks.judged[0].whose == "the training mean", "the least floor"
    found = json.loads((tmp_path / "run" / "results.json").read_text())["reconstruction_floors"]
    assert masks.judged[0].reference == min(found.values())
    test = parts("digits", 0, validation=0.15).test.x
    assert found["the masked examples"] == pytest.approx(0.75 * float(test.flatten(1).square().sum(1).mean()), rel=0.03)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_mask_leaves_something_and_hides_something(ratio):
    with pytest.raises(ValueError, match="so that something is hidden and something is left"):
        DenoisingAutoencoderConfig(corruption="masking", mask_ratio=ratio)
    learner = learner_of(Dataset(torch.rand(4, 3)), DenoisingAutoencoderConfig(corruption="masking", net_arch=()))
    with pytest.raises(ValueError, match="estimated by corruption=\"gaussian\", not by 'masking'"):
        learner.score(torch.rand(4, 3))
    with pytest.raises(ValueError, match="patch=2 hides squares of images"):
        learner_of(Dataset(torch.rand(4, 3)), DenoisingAutoencoderConfig(corruption="masking", patch=2, net_arch=()))
