"""Schedules, posterior and samplers of diffusion against closed forms."""

import math

import pytest
import torch
from torch import nn

from agentlib.backbones import DiffusionModel, MLPDenoiser, UNetDenoiser, from_spec
from agentlib.backbones.diffusion import betas
from agentlib.learners.generative.diffusion import Diffusion, DiffusionConfig, denoising_losses


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


class Exact(nn.Module):
    """The best velocity for data N(0, deviation^2): E[noise | x] and E[x_0 | x] are linear in x."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.variance = deviation**2
        self.model: DiffusionModel

    def forward(self, x, time, condition=None):
        t = (time * self.model.noise_steps).round().long() - 1
        kept = self.model.alpha_bar[t].to(x.dtype)[:, None]
        total = kept * self.variance + 1 - kept
        noise, origin = (1 - kept).sqrt() / total * x, kept.sqrt() * self.variance / total * x
        return kept.sqrt() * noise - (1 - kept).sqrt() * origin


def exact_model(deviation: float, noise_steps: int, schedule: str, d: int = 1) -> DiffusionModel:
    denoiser = Exact(deviation)
    model = DiffusionModel(denoiser, (d,), noise_steps, schedule)  # type: ignore[arg-type]
    vars(denoiser)["model"] = model  # not a submodule
    return model


def test_schedules_have_the_papers_constants():
    linear, cosine = ((1 - betas(name, 1000)).cumprod(0) for name in ("linear", "cosine"))
    assert float(linear[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(linear[499]) == pytest.approx(0.07859, rel=1e-3)
    assert float(cosine[499]) == pytest.approx(0.4938, rel=1e-3)
    assert float(betas("cosine", 1000).max()) <= 0.999
    assert float((1 - betas("linear", 100)).prod()) == pytest.approx(4e-5, rel=0.7)  # as noisy at the end for other T
    with pytest.raises(ValueError, match="unknown noise schedule 'sigmoid'; known: linear, cosine"):
        betas("sigmoid", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 noise steps, not 1"):
        betas("cosine", 1)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noised_has_the_moments_of_many_small_steps(schedule):
    """q(x_t | x_0) from its definition: beta after beta of noise."""
    model = DiffusionModel(MLPDenoiser((1,)), (1,), 20, schedule)
    mean, variance = 1.7, 0.0
    for t, beta in enumerate(model.beta.tolist()):
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
        time = torch.full((1,), t)
        at_zero = model.noised(torch.tensor([[1.7]]), time, torch.zeros(1, 1))
        assert float(at_zero) == pytest.approx(mean, rel=1e-4, abs=1e-6)
        noise_alone = model.noised(torch.zeros(1, 1), time, torch.ones(1, 1))
        assert float(noise_alone) ** 2 == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_posterior_is_bayes(schedule):
    """q(x_{t-1} | x_t, x_0), by the product of the two Gaussians q(x_{t-1} | x_0) and q(x_t | x_{t-1})."""
    model = DiffusionModel(MLPDenoiser((1,)), (1,), 20, schedule)
    origin, x = torch.tensor([[0.8]]), torch.tensor([[-0.3]])
    for t in range(1, 20):
        beta, before = float(model.beta[t]), float(model.alpha_bar[t - 1])
        precision = (1 - beta) / beta + 1 / (1 - before)
        expected = (math.sqrt(1 - beta) * -0.3 / beta + math.sqrt(before) * 0.8 / (1 - before)) / precision
        mean, variance = model.posterior(origin, x, torch.full((1,), t))
        assert float(mean) == pytest.approx(expected, rel=1e-4)
        assert float(variance) == pytest.approx(1 / precision, rel=1e-4)
    mean, variance = model.posterior(origin, x, torch.zeros(1, dtype=torch.int64))
    assert float(mean) == pytest.approx(0.8, rel=1e-5)  # the last step leaves no noise
    assert float(variance) == pytest.approx(0.0, abs=1e-7)


def test_noise_and_origin_told_fit_together():
    model = DiffusionModel(MLPDenoiser((3,), (16,)), (3,), 50)
    x, t = torch.randn(8, 3), torch.randint(50, (8,))
    torch.testing.assert_close(model.noised(model.clean(x, t), t, model(x, t)), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("deviation", "optimum"), [(1.0, 0.27551), (0.5, 0.17305)])
def test_the_loss_at_its_optimum(deviation, optimum):
    model = exact_model(deviation, 1000, "linear")
    losses = torch.cat([denoising_losses(model, deviation * torch.randn(100_000, 1)) for _ in range(5)])
    assert float(losses.mean()) == pytest.approx(optimum, abs=0.003)


def test_the_loss_of_a_model_that_tells_no_noise_is_1():
    model = DiffusionModel(MLPDenoiser((4,)), (4,), 100)
    model.forward = lambda x, t, condition=None: torch.zeros_like(x)  # type: ignore[method-assign]
    assert float(denoising_losses(model, torch.randn(20_000, 4)).mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [None, 200])
def test_with_the_exact_noise_samples_have_the_data_s_moments(schedule, steps):
    model = exact_model(0.5, 200, schedule, d=2)
    model.center.fill_(3.0)
    samples = model.sample(20_000, steps=steps, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(samples.mean(0), torch.full((2,), 3.0), atol=0.03, rtol=0.0)
    torch.testing.assert_close(samples.std(0), torch.full((2,), 0.5), atol=0.02, rtol=0.0)


def test_the_fast_sampler_is_a_function_of_its_noise():
    model = DiffusionModel(MLPDenoiser((2,), (16,)), (2,), 50, clip=True)
    model.standardize(torch.randn(100, 2) * 3 + 1)
    noise = torch.randn(5, 2)
    assert torch.equal(model.sample(5, steps=7, noise=noise), model.sample(5, steps=7, noise=noise))
    first, again, other = (model.sample(5, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(ValueError, match="takes 1 to 50 steps, not 51"):
        model.sample(5, steps=51)


def test_clipped_samples_stay_in_the_range_of_the_data():
    data = torch.rand(500, 2) * torch.tensor([1.0, 4.0]) - 2
    model = DiffusionModel(MLPDenoiser((2,), (16,)), (2,), 20, clip=True)
    model.standardize(data)
    for steps in (None, 4):
        samples = model.sample(500, steps=steps)
        assert bool((samples >= data.amin(0) - 1e-4).all())
        assert bool((samples <= data.amax(0) + 1e-4).all())


def test_standardized_data_has_unit_variance():
    model = DiffusionModel(MLPDenoiser((2,)), (2,), 20)
    data = torch.randn(4_000, 2) * torch.tensor([3.0, 1.0]) + 5
    model.standardize(data)
    inside = (data - model.center) / model.scale
    torch.testing.assert_close(inside.mean(0), torch.zeros(2), atol=1e-5, rtol=0.0)
    assert float(inside.square().mean()) == pytest.approx(1.0, rel=1e-4)
    assert float(inside[:, 0].std() / inside[:, 1].std()) == pytest.approx(3.0, rel=0.1)  # the shape stays


@pytest.mark.parametrize(
    "denoiser", [MLPDenoiser((1, 6, 6), (8,), condition_dim=3), UNetDenoiser((1, 6, 6), (8, 8), condition_dim=3)]
)
def test_models_are_rebuilt_from_their_specs(denoiser):
    model = DiffusionModel(denoiser, (1, 6, 6), 20, "linear", clip=True)
    model.standardize(torch.rand(10, 1, 6, 6))
    again = from_spec(model.spec)
    again.load_state_dict(model.state_dict())
    x, t, condition = torch.randn(4, 1, 6, 6), torch.randint(20, (4,)), torch.randn(4, 3)
    assert torch.equal(model(x, t, condition), again(x, t, condition))
    assert torch.equal(model(x, t), model(x, t, torch.zeros(4, 3)))  # no condition is zeros


def test_configs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"DiffusionConfig\.noise_steps must be at least 2"):
        DiffusionConfig(noise_steps=1)
    model = DiffusionModel(MLPDenoiser((2,)), (2,), 20)
    with pytest.raises(ValueError, match="needs n_classes"):
        Diffusion(model, lambda parameters: torch.optim.SGD(parameters, 0.1), DiffusionConfig(conditional=True))
