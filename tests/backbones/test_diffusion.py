"""Schedules, posterior and samplers of diffusion against closed forms."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from agentlib.backbones import DiffusionModel, MLPDenoiser, UNetDenoiser, from_spec
from agentlib.backbones.diffusion import betas
from agentlib.data import Dataset
from agentlib.families.generative import GenerativeFacts
from agentlib.learners.generative.diffusion import Diffusion, DiffusionConfig, bound_terms, denoising_losses


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


def exact_model(deviation: float, noise_steps: int, schedule: str, d: int = 1, **how) -> DiffusionModel:
    denoiser = Exact(deviation)
    model = DiffusionModel(denoiser, (d,), noise_steps, schedule, **how)  # type: ignore[arg-type]
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
    with pytest.raises(ValueError, match="hides labels, which need conditional=True"):
        DiffusionConfig(condition_dropout=0.1)
    with pytest.raises(ValueError, match=r"needs examples without labels, too: condition_dropout=0\.1"):
        DiffusionConfig(conditional=True, guidance_scale=2.0)
    data = GenerativeFacts(Dataset(torch.zeros(4, 2)))
    with pytest.raises(ValueError, match="or a denoiser with learn_variance=True"):
        Diffusion.build(MLPDenoiser((2,)), DiffusionConfig(variance="learned"), data)
    with pytest.raises(ValueError, match="unknown variance 'smal'; close matches: small"):
        DiffusionModel(MLPDenoiser((2,)), (2,), 20, variance="smal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown sampler 'dpm2'; close matches: dpm"):
        model.sample(1, sampler="dpm2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a condition or a guide is followed, and there is neither"):
        model.sample(1, guidance_scale=2.0)


def test_guidance_is_plain_at_scale_1_unconditional_at_0_and_a_line_between_and_beyond():
    model = DiffusionModel(MLPDenoiser((2,), (16,), condition_dim=3), (2,), 20)
    x, t, condition = torch.randn(6, 2), torch.randint(20, (6,)), torch.eye(3).repeat(2, 1)
    plain, conditional = model.velocity(x, t), model.velocity(x, t, condition)
    assert (plain - conditional).abs().max() > 1e-3
    assert torch.equal(model.outputs(x, t, condition, 1.0)[0], conditional)
    assert torch.equal(model.outputs(x, t, condition, 0.0)[0], plain)
    torch.testing.assert_close(model.outputs(x, t, condition, 3.0)[0], 3.0 * conditional - 2.0 * plain)
    for scale, same in ((1.0, condition), (0.0, None)):
        found, expected = (
            model.sample(6, given, guidance_scale=s, steps=5, noise=x) for given, s in ((condition, scale), (same, 1.0))
        )
        assert torch.equal(found, expected)


def test_the_second_order_sampler_is_nearer_to_the_flow():
    """For data N(0, v) the flow is x sqrt(abar v + 1 - abar), up to the last step, which is E[x_0 | x]."""
    for schedule in ("linear", "cosine"):
        model = exact_model(0.5, 1000, schedule).double()
        total = model.alpha_bar * 0.25 + 1 - model.alpha_bar
        expected = float(model.alpha_bar[0].sqrt() * 0.25 / (total[0] * total[-1]).sqrt())
        noise, errors = torch.ones(1, 1, dtype=torch.float64), {}
        for sampler in ("ddim", "dpm"):
            found = [float(model.sample(1, steps=steps, sampler=sampler, noise=noise)) for steps in (20, 40, 80)]
            errors[sampler] = [abs(one - expected) for one in found]
        first, second = errors["ddim"], errors["dpm"]
        assert all(1.9 < coarse / fine < 2.1 for coarse, fine in itertools.pairwise(first)), "ddim is of first order"
        assert second[0] < 0.5 * first[0]
        assert max(second[1] / first[1], second[2] / first[2]) < 0.1


def test_lines_are_drawn_on_to_the_middle_of_a_step():
    """Of x_0 that is linear in half the log of abar / (1 - abar), the middle of the next step is met."""
    model = exact_model(0.5, 1000, "linear")
    times = [900, 700, 350, 100, 0]
    place = 0.5 * (model.alpha_bar[times] / (1 - model.alpha_bar[times])).log()
    for i, growth in enumerate(model._growths(times)[:-1], start=1):
        aim = place[i] + growth * (place[i] - place[i - 1])
        assert float(aim) == pytest.approx(float((place[i] + place[i + 1]) / 2), abs=1e-9)
    assert model._growths(times)[-1] == 0.0


@pytest.mark.parametrize("steps", [5, 40, None])
def test_the_large_variance_is_exact_for_standard_normal_data_at_any_number_of_steps(steps):
    large, small = (exact_model(1.0, 40, "linear", variance=variance) for variance in ("large", "small"))
    deviations = [
        float(model.sample(40_000, steps=steps, sampler="ddpm", generator=torch.Generator().manual_seed(2)).std())
        for model in (large, small)
    ]
    assert deviations[0] == pytest.approx(float(large.alpha_bar[0].sqrt()), abs=0.015)
    assert deviations[1] < deviations[0] - (0.05 if steps == 5 else 0.0)


def test_steps_to_the_time_before_are_the_usual_ones():
    model = exact_model(0.5, 40, "cosine")
    origin, x, t = torch.randn(39, 1), torch.randn(39, 1), torch.arange(1, 40)
    for found, expected in zip(model.posterior(origin, x, t, t - 1), model.posterior(origin, x, t), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.log_variance(t).exp(), model.posterior(origin, x, t)[1], rtol=1e-3, atol=1e-7)


def test_the_variational_bound_is_the_entropy_where_the_model_is_exact():
    """Of data N(0, 1) the reverse steps are Gaussians with the large variance: the bound is -log p(x_0) itself."""
    model = exact_model(1.0, 40, "linear", variance="large")
    total = -0.5 * float((-model.alpha_bar[-1]).log1p())  # the last x_t beside N(0, 1), its mean
    origin = torch.randn(100_000, 1)
    for time in range(40):
        t = torch.full((len(origin),), time)
        noisy = model.noised(origin, t, torch.randn_like(origin))
        total += float(bound_terms(model, origin, noisy, t, model.velocity(noisy, t)).mean())
    assert total == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.01)


def test_a_learned_variance_lies_between_the_two_and_is_trained_by_the_bound_alone():
    model = exact_model(1.0, 40, "linear", variance="learned")
    t = torch.arange(40)
    logits = torch.tensor([-40.0, 0.0, 40.0]).expand(40, 3)
    model.shape = (3,)
    found = model.log_variance(t, logits)
    model.variance = "small"
    torch.testing.assert_close(found[:, :1], model.log_variance(t))
    torch.testing.assert_close(found[:, 2], model.beta.log().float())
    torch.testing.assert_close(found[:, 1], found[:, ::2].mean(1))

    denoiser = MLPDenoiser((2,), (16,), learn_variance=True)

    class Velocity(nn.Module):
        def forward(self, *inputs):
            return denoiser(*inputs)[:, :2]

    model = DiffusionModel(denoiser, (2,), 20, variance="learned")
    plain = DiffusionModel(Velocity(), (2,), 20)
    x = torch.randn(64, 2)
    gradients = []
    for one in (model, plain):
        torch.random.manual_seed(3)
        loss = denoising_losses(one, x).mean()
        gradients.append(torch.autograd.grad(loss, denoiser.head.weight)[0])
    torch.testing.assert_close(gradients[0][:2], gradients[1][:2])
    assert gradients[0][2:].abs().max() > 0
    assert gradients[1][2:].abs().max() == 0
    again: Any = from_spec(model.spec)
    again.load_state_dict(model.state_dict())
    noise = torch.randn(3, 2)
    how: Any = {"steps": 5, "sampler": "ddpm", "noise": noise}
    first, second = (one.sample(3, generator=torch.Generator().manual_seed(0), **how) for one in (model, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("steps", "sampler"), [(None, "ddpm"), (80, "ddim"), (40, "dpm")])
def test_a_guide_leads_to_the_posterior(steps, sampler):
    """x ~ N(0, 1) and y = x + N(0, s^2): p(x | y) = N(y / (1 + s^2), s^2 / (1 + s^2))."""
    model, y, variance = exact_model(1.0, 200, "cosine", variance="large"), 1.5, 0.25

    def guide(x, t):  # y given x_t is N(sqrt(abar) x_t, 1 - abar + s^2)
        kept = model.alpha_bar[t].to(x.dtype)
        return -0.5 * (y - kept.sqrt() * x[:, 0]).square() / (1.0 - kept + variance)

    how: Any = {"steps": steps, "sampler": sampler}
    found = model.sample(10_000, guide=guide, generator=torch.Generator().manual_seed(0), **how)
    assert float(found.mean()) == pytest.approx(y / (1 + variance), abs=0.02)
    assert float(found.std()) == pytest.approx(math.sqrt(variance / (1 + variance)), abs=0.02)
    free = model.sample(5, guide=guide, guidance_scale=0.0, generator=torch.Generator().manual_seed(1), **how)
    assert torch.equal(free, model.sample(5, generator=torch.Generator().manual_seed(1), **how))
    exaggerated = model.sample(
        10_000, guide=guide, guidance_scale=3.0, generator=torch.Generator().manual_seed(0), **how
    )
    assert float(exaggerated.mean()) > float(found.mean()) + 0.1
    assert float(exaggerated.std()) < float(found.std()) - 0.05
