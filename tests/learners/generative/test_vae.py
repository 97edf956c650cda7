"""The VAE's terms against closed forms, and a linear VAE against the best linear model."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from agentlib.backbones import MLP, MLPDecoder, adam, sgd
from agentlib.core import Clock, Cosine
from agentlib.data import Batches, Dataset, Examples, dataset
from agentlib.engine import run
from agentlib.learners.generative.latent_model import LatentModel, bernoulli_log_likelihood, normal_log_density
from agentlib.learners.generative.vae import VAE, VAEConfig, bounds, kl_from_standard_normal
from agentlib.metrics.likelihoods import probabilistic_pca


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


class Same(nn.Flatten):
    """The examples themselves as features, in any dtype."""

    feature_dim = 5


class LinearDecoder(nn.Module):
    def __init__(self, k, d):
        super().__init__()
        self.head = nn.Linear(k, d)

    def forward(self, z):
        return self.head(z)


def linear_model(d: int = 5, k: int = 2, deviation: float = 0.5) -> Any:
    """x = W z + b + deviation * noise, W with orthogonal columns: its posterior has a diagonal covariance."""
    model: Any = LatentModel(Same(), LinearDecoder(k, d), k, "gaussian", deviation).double()
    loadings = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))[0] * torch.tensor([2.0, 1.0])
    with torch.no_grad():
        model.decoder.head.weight.copy_(loadings)
    return model


def set_to_posterior(model: Any) -> None:
    """The encoder becomes the exact posterior N(M^-1 W' (x - b), s^2 M^-1), M = W'W + s^2 I."""
    loadings, offset = model.decoder.head.weight.detach(), model.decoder.head.bias.detach()
    variance = model.log_deviation.detach().exp() ** 2
    precision = loadings.T @ loadings + variance * torch.eye(loadings.shape[1], dtype=torch.float64)
    gain = torch.linalg.solve(precision, loadings.T)
    k = len(gain)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[:k], model.head.bias[:k] = gain, -gain @ offset
        model.head.bias[k:] = (variance / precision.diagonal()).log()


def exact_log_likelihood(model: Any, x: torch.Tensor) -> torch.Tensor:
    loadings, offset = model.decoder.head.weight.detach(), model.decoder.head.bias.detach()
    noise = model.log_deviation.detach().exp() ** 2 * torch.eye(len(offset), dtype=torch.float64)
    return MultivariateNormal(offset, loadings @ loadings.T + noise).log_prob(x)


def test_kl_is_that_of_torch_and_of_monte_carlo():
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    q, p = Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
    found = kl_from_standard_normal(mean, log_variance)
    torch.testing.assert_close(found, kl_divergence(q, p).sum(-1))
    z = q.sample((200_000,))
    torch.testing.assert_close(found, (q.log_prob(z) - p.log_prob(z)).sum(-1).mean(0), rtol=0.02, atol=0.02)
    assert kl_from_standard_normal(torch.zeros(1, 3), torch.zeros(1, 3)) == 0.0  # a collapsed posterior


def test_likelihoods_are_those_of_torch_and_sum_to_one():
    logits = torch.randn(4, dtype=torch.float64)
    x = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 4)  # (16, 4): all that there are
    found = bernoulli_log_likelihood(logits.expand_as(x), x)
    torch.testing.assert_close(found, Bernoulli(logits=logits).log_prob(x).sum(-1))
    assert float(found.exp().sum()) == pytest.approx(1.0)
    mean, log_variance = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = Normal(mean, (0.5 * log_variance).exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(normal_log_density(x, mean, log_variance), expected)


def test_the_importance_bound_rises_with_k_to_the_exact_likelihood():
    model, x = linear_model(), torch.randn(50, 5, dtype=torch.float64)
    set_to_posterior(model)
    exact = exact_log_likelihood(model, x).mean()
    with torch.no_grad():
        model.head.bias += torch.tensor([0.3, -0.3, 1.0, 1.0], dtype=torch.float64)  # off the posterior, and too wide
        means = [torch.stack([bounds(model, x, k)[0].mean() for _ in range(100)]).mean() for k in (1, 2, 8, 64)]
        large = torch.stack([bounds(model, x, 5_000)[0].mean() for _ in range(4)]).mean()
    assert means == sorted(means)
    assert means[-1] < exact
    assert float(large) == pytest.approx(float(exact), abs=0.01)


def test_at_the_exact_posterior_every_bound_is_the_likelihood():
    model, x = linear_model(), torch.randn(50, 5, dtype=torch.float64)
    set_to_posterior(model)
    exact = exact_log_likelihood(model, x)
    with torch.no_grad():
        torch.testing.assert_close(bounds(model, x, 2)[0], exact)  # all weights are equal: no noise at all
        elbo = torch.stack([bounds(model, x)[0] for _ in range(4_000)]).mean(0)
    torch.testing.assert_close(elbo, exact, atol=0.15, rtol=0.0)


def test_the_gradient_through_the_sample_is_the_score_function_s():
    """d/dmean of E_q[log p(x | z)], both ways; the first has far less noise."""
    model, x = linear_model(), torch.randn(1, 5, dtype=torch.float64)
    mean = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
    log_variance = torch.tensor([-1.0, 0.2], dtype=torch.float64)
    noise = torch.randn(100_000, 1, 2, dtype=torch.float64)
    z = mean + (0.5 * log_variance).exp() * noise  # (k, 1, 2)
    (through,) = torch.autograd.grad(model.log_likelihood(x, z).mean(), mean)
    with torch.no_grad():
        value = model.log_likelihood(x, z)  # (k, 1)
        score = (z - mean) / log_variance.exp()  # (k, 1, 2)
        samples = (value - value.mean())[..., None] * score
    torch.testing.assert_close(through, samples.mean((0, 1)), rtol=0.05, atol=0.05)
    loadings, variance = model.decoder.head.weight.detach(), 0.25
    with torch.no_grad():  # the gradient of log p(x | z) at each z, in closed form
        singles = (x - model.decoder(z)) @ loadings / variance  # (k, 1, 2)
    torch.testing.assert_close(singles.mean((0, 1)), through)
    assert bool((singles.var(0) < 0.5 * samples.var(0)).all())


def test_with_codes_that_say_nothing_the_bound_is_the_decoder_s_likelihood():
    model: Any = LatentModel(MLP(6, ()), MLPDecoder(2, (6,), ()), 2)
    for layer in (model.head, model.decoder.head):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    bound, kl = bounds(model, torch.bernoulli(torch.full((7, 6), 0.5)))
    torch.testing.assert_close(bound, torch.full((7,), -6 * math.log(2)))
    torch.testing.assert_close(kl, torch.zeros(7))


def test_samples():
    bits = LatentModel(MLP(6, ()), MLPDecoder(2, (2, 3), ()), 2)
    generator = torch.Generator().manual_seed(3)
    samples = bits.sample(50, generator=generator)
    assert samples.shape == (50, 2, 3)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(samples, bits.sample(50, generator=torch.Generator().manual_seed(3)))
    model = linear_model()
    drawn = model.sample(200_000)
    loadings = model.decoder.head.weight.detach()
    covariance = loadings @ loadings.T + 0.25 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.05, rtol=0.0)


def test_configs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"VAEConfig\.beta must be at least 0"):
        VAEConfig(beta=-1.0)
    with pytest.raises(ValueError, match="with importance_samples there is none"):
        VAEConfig(beta=2.0, importance_samples=5)


@pytest.mark.slow
def test_a_linear_vae_reaches_the_best_linear_model():
    """Its ELBO equals the exact likelihood of probabilistic PCA, and its decoder spans the principal subspace."""
    pytest.importorskip("sklearn")
    x = dataset("digits").x.flatten(1)
    x = x - x.mean(0)
    best = float(probabilistic_pca(x, x, 10).mean())
    model: Any = LatentModel(MLP(64, ()), MLPDecoder(10, (64,), ()), 10, "gaussian", deviation=0.3)
    learner = VAE(model, adam(Cosine(3e-2)))
    for _ in run(learner, Batches(Dataset(x), 600), 1_500, compile=False):
        pass
    with torch.no_grad():
        reached = float(torch.stack([bounds(model, x)[0].mean() for _ in range(20)]).mean())
    assert best - 0.1 < reached < best + 0.03
    principal = torch.linalg.svd(x, full_matrices=False).Vh[:10].T  # (64, 10)
    spanned = torch.linalg.qr(model.decoder.head.weight.detach())[0]
    cosines = torch.linalg.svdvals(principal.T @ spanned)
    assert float(cosines.min()) > 0.99


def test_beta_weighs_the_kl_term_of_an_update():
    """With the same codes, losses at beta 4 and 1 are 3 KL apart."""
    model: Any = LatentModel(MLP(6, ()), MLPDecoder(2, (6,), ()), 2)
    x = torch.bernoulli(torch.full((7, 6), 0.5))
    kl = kl_from_standard_normal(*model.encode(x)).detach()
    found = []
    for beta in (1.0, 4.0):
        learner = VAE(copy.deepcopy(model), sgd(0.0), VAEConfig(beta=beta, likelihood="bernoulli"))
        torch.random.manual_seed(1)
        found.append(learner.update(Examples(x, None, torch.arange(7), Clock(0, 0, 0.0))))
    plain, heavy = (update.per_sample for update in found)
    assert plain is not None
    torch.testing.assert_close(heavy, plain + 3.0 * kl)
    torch.testing.assert_close(found[1].metrics["loss"] - found[0].metrics["loss"], 3.0 * kl.mean())
    assert float(kl.min()) > 0.01
