"""GAN losses at their null values, and a discriminator against the one that is optimal."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional

from agentlib.backbones import MLP, Critic, Generator, MLPDecoder, adam, sgd
from agentlib.core import Clock, Linear, Step
from agentlib.data import Examples
from agentlib.engine import run
from agentlib.learners.generative.gan import GAN, GANConfig, discriminator_loss, generator_loss


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


def test_losses_at_equilibrium_and_for_a_perfect_discriminator():
    even, sure = torch.zeros(5), torch.full((5,), 30.0)
    assert float(discriminator_loss(even, even)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(even)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(sure, -sure)) == pytest.approx(0.0, abs=1e-6)
    assert float(generator_loss(-sure)) == pytest.approx(30.0)  # does not saturate: its slope stays 1


def test_loss_is_the_binary_cross_entropy():
    real, fake = torch.randn(6), torch.randn(6)
    probabilities = torch.cat([real, fake]).sigmoid()
    targets = torch.cat([torch.full((6,), 0.9), torch.zeros(6)])
    expected = 2 * functional.binary_cross_entropy(probabilities, targets)
    torch.testing.assert_close(discriminator_loss(real, fake, target=0.9), expected)
    torch.testing.assert_close(generator_loss(fake), functional.binary_cross_entropy(fake.sigmoid(), torch.ones(6)))


def test_the_optimal_discriminator_gives_the_jensen_shannon_divergence():
    """L_D at D* = p / (p + q) is 2 ln 2 - 2 JSD: ln 4 for p = q, and 0 for disjoint supports."""
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    width = float(x[1] - x[0])
    for distance, expected in ((0.0, math.log(4)), (1.0, None), (8.0, 0.0)):
        logs = [Normal(side * distance / 2, 0.5).log_prob(x) for side in (-1, 1)]
        p, q = (log.exp() for log in logs)
        odds = logs[0] - logs[1]
        loss = float((p * functional.softplus(-odds) + q * functional.softplus(odds)).sum()) * width
        log_middle = torch.logaddexp(*logs) - math.log(2)
        jsd = 0.5 * width * sum(float((log.exp() * (log - log_middle)).sum()) for log in logs)
        assert loss == pytest.approx(2 * math.log(2) - 2 * jsd, abs=1e-6)
        if expected is not None:
            assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_trained_discriminator_is_the_optimal_one():
    """D(x) = p(x) / (p(x) + q(x)) for two Gaussians in one dimension."""
    p, q = Normal(-0.5, 0.6), Normal(0.5, 1.0)
    critic = Critic(MLP(1, (64, 64), "tanh"))
    step = Step(critic, adam(lambda clock: 3e-3 * (1 - clock.fraction)))
    for k in range(1_500):
        loss = discriminator_loss(critic(p.sample((512, 1))), critic(q.sample((512, 1))))
        step(loss, Clock(k, k, k / 1_500))
    x = torch.linspace(-2, 2.5, 40)[:, None]
    with torch.no_grad():
        found = critic(x).sigmoid()
    optimal = (p.log_prob(x) - q.log_prob(x)).sigmoid()[:, 0]
    assert float((found - optimal).abs().max()) < 0.05


def test_both_networks_see_the_label():
    learner, source = GAN.tiny()
    for _ in run(learner, source, 3, compile=False):
        pass
    z, x = torch.randn(4, 2), torch.randn(4, 2)
    zeros, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    assert not torch.allclose(learner.generator(z, zeros), learner.generator(z, ones))
    assert not torch.allclose(learner.discriminator(x, zeros), learner.discriminator(x, ones))


def test_the_discriminator_s_step_leaves_the_generator_alone():
    made: Any = GAN.tiny()
    learner, source = made
    learner.generator_step = torch.nn.Module()
    learner.generator_step.forward = lambda loss, clock: loss
    before = {name: value.clone() for name, value in learner.generator.state_dict().items()}
    next(run(learner, source, 1, compile=False))
    assert all(torch.equal(value, before[name]) for name, value in learner.generator.state_dict().items())


def test_samples_come_by_label_from_the_average():
    learner, source = GAN.tiny()
    for _ in run(learner, source, 3, compile=False):
        pass
    average: Any = learner.average.network
    assert average.sample(8, torch.arange(8)).shape == (8, 2)
    with pytest.raises(ValueError, match="needs a label from 0 to 7 for each example"):
        average.sample(8)
    with pytest.raises(ValueError, match="is not conditional: leave out the labels"):
        Generator(MLPDecoder(2, (2,)), 2).sample(3, torch.zeros(3, dtype=torch.int64))


def test_configs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"GANConfig\.real_target must be between 0\.5 and 1"):
        GANConfig(real_target=0.2)
    with pytest.raises(ValueError, match=r"GANConfig\.dropout must be between 0 and 1"):
        GANConfig(dropout=1.5)


class Recorder(torch.nn.Module):
    """A discriminator that keeps its inputs."""

    def __init__(self):
        super().__init__()
        self.w, self.inputs = torch.nn.Parameter(torch.ones(())), []

    def forward(self, x, label=None):
        self.inputs.append(x.detach())
        return self.w * x.sum(1)


@pytest.mark.parametrize(("fraction", "deviation"), [(0.0, 0.4), (0.5, 0.2), (1.0, 0.0)])
def test_the_discriminator_sees_everything_through_fading_noise(fraction, deviation):
    generator = Generator(MLPDecoder(2, (2,), ()), 2)
    for weight in generator.parameters():
        torch.nn.init.zeros_(weight)
    discriminator, x = Recorder(), torch.full((4_000, 2), 0.25)
    config = GANConfig(instance_noise=Linear(0.4, 0.0))
    learner = GAN(generator, discriminator, sgd(0.0), config)  # type: ignore[arg-type]
    found = learner.update(Examples(x, None, torch.arange(4_000), Clock(0, 0, fraction))).metrics
    real, *fakes = discriminator.inputs
    assert len(fakes) == 2  # one for each network's step
    if not deviation:  # log-odds of 0.5 and of 0
        assert [float(found[f"{kind}_called_real"]) for kind in ("real", "fake")] == [1.0, 0.0]
    for noise in (real - 0.25, *fakes):
        assert float(noise.std()) == pytest.approx(deviation, abs=0.02)
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
