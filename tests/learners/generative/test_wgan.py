"""Penalties in closed form, critics that are Lipschitz, and a critic's gap against the exact distance."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentlib.backbones import MLP, Critic, Generator, MLPDecoder, adam, sgd
from agentlib.core import Clock, Linear, Step
from agentlib.data import Batches, Examples
from agentlib.data.toys import eight_gaussians
from agentlib.engine import run
from agentlib.families.generative import GenerativeFacts
from agentlib.learners.generative.wgan import WGAN, WGANConfig, between, gradient_penalty


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


def test_penalty_of_a_linear_critic_and_its_gradient():
    a = torch.tensor([3.0, 4.0], requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ a, torch.randn(7, 2))
    assert float(penalty.detach()) == pytest.approx((5.0 - 1.0) ** 2)
    (slope,) = torch.autograd.grad(penalty, a)  # 2 (|a| - 1) a / |a|
    torch.testing.assert_close(slope, 2 * 4.0 * a.detach() / 5.0)


def test_penalty_is_of_each_example_s_gradient():
    x = torch.randn(9, 3)
    expected = (x.norm(dim=1) - 1).square().mean()  # of f(x) = |x|^2 / 2
    torch.testing.assert_close(gradient_penalty(lambda x: x.square().sum(1) / 2, x), expected)
    images = torch.randn(4, 1, 3, 5)
    penalty = gradient_penalty(lambda x: x.flatten(1).sum(1), images)
    assert float(penalty) == pytest.approx((math.sqrt(15) - 1) ** 2)


def test_points_between_lie_on_the_lines():
    real, fake = torch.zeros(2_000, 1, 2, 2), torch.ones(2_000, 1, 2, 2)
    points = between(real, fake).flatten(1)
    assert bool((points == points[:, :1]).all())  # one share for all numbers of an example
    shares = points[:, 0].sort().values
    assert float((shares - torch.linspace(0, 1, 2_000)).abs().max()) < 0.05  # uniform


def heights_are_1_lipschitz(critic: Critic, points: Tensor) -> bool:
    heights = critic(points)
    rise = (heights[:, None] - heights[None]).abs()
    return bool((rise <= torch.cdist(points, points) * (1 + 1e-4) + 1e-6).all())


def trained(constraint: str, updates: int = 20) -> WGAN:
    config = WGANConfig(batch_size=32, critic_steps=2, constraint=constraint, clip=0.05)  # type: ignore[arg-type]
    norm = "spectral" if constraint == "spectral" else "none"
    critic = Critic(MLP(2, (16, 16), norm=norm), spectral=constraint == "spectral")
    learner = WGAN(Generator(MLPDecoder(2, (2,), (16,)), 2), critic, adam(1e-3), config)
    for _ in run(learner, WGAN.tiny()[1], updates, compile=False):
        pass
    return learner


def test_clipped_weights():
    critic = trained("clip").critic
    assert max(float(weight.detach().abs().max()) for weight in critic.parameters()) == pytest.approx(0.05)


def test_spectral_norm_is_1_by_the_exact_singular_values():
    critic = trained("spectral", 60).critic
    weights = [module.weight for module in critic.modules() if isinstance(module, torch.nn.Linear)]
    assert len(weights) == 3
    for weight in weights:  # while it learns, power iteration follows
        assert float(torch.linalg.svdvals(weight.detach())[0]) == pytest.approx(1.0, abs=0.1)
    with torch.no_grad():
        for _ in range(300):
            critic(torch.zeros(1, 2))
        critic.eval()
        for weight in (module.weight for module in critic.modules() if isinstance(module, torch.nn.Linear)):
            assert float(torch.linalg.svdvals(weight)[0]) == pytest.approx(1.0, abs=1e-3)
        assert heights_are_1_lipschitz(critic, 3 * torch.randn(200, 2))


def test_each_step_of_the_critic_has_its_own_batch_and_the_generator_moves_once():
    learner, source = WGAN.tiny()
    source.advance()
    batch = source.sample()
    assert batch.x.shape == (2, 32, 2)
    learner.update(batch)
    assert int(learner.critic_step.count) == 2
    assert int(learner.generator_step.count) == 1


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_a_conditional_critic_and_its_generator_see_the_labels_of_their_batch(monkeypatch, critic_steps):
    config = WGANConfig(conditional=True, critic_steps=critic_steps, batch_size=4, net_arch=(8,))
    data = eight_gaussians(400)
    learner = WGAN.build(MLP(2, (8,)), config, GenerativeFacts(data, 8))
    source = Batches(data, 4, batches_per_update=critic_steps)
    source.advance()
    batch, seen = source.sample(), {"critic": list[Tensor](), "generator": list[Tensor]()}
    assert batch.y is not None

    def noted(name, forward):
        def called(self, x, label):
            seen[name].append(label)
            return forward(self, x, label)

        return called

    monkeypatch.setattr(Critic, "forward", noted("critic", Critic.forward))
    monkeypatch.setattr(Generator, "forward", noted("generator", Generator.forward))
    learner.update(batch)
    last = [*batch.y.reshape(critic_steps, 4), batch.y.reshape(-1, 4)[-1]]
    assert torch.equal(torch.stack(seen["generator"]), torch.stack(last))
    assert torch.equal(torch.stack(seen["critic"][::3]), torch.stack(last))  # real, fake, penalty; then the generator's
    assert learner.sample(3, torch.tensor([1, 2, 3])).shape == (3, 2)


def test_one_step_of_the_critic_takes_a_plain_batch():
    config = WGANConfig(critic_steps=1, batch_size=8)
    learner = WGAN(Generator(MLPDecoder(2, (2,)), 2), Critic(MLP(2)), adam(1e-3), config)
    source = Batches(eight_gaussians(64), 8)
    assert len(list(run(learner, source, 2, compile=False))) == 2


@pytest.mark.slow
def test_the_critic_s_gap_is_the_wasserstein_distance():
    """W1 of a Gaussian and its translation is the length of the way: here 2. Within 15%."""
    critic = Critic(MLP(2, (64, 64)))
    step = Step(critic, adam(Linear(1e-3, 0.0), betas=(0.0, 0.9)))
    shift = torch.tensor([1.2, 1.6])
    for k in range(600):
        real, fake = torch.randn(256, 2) + shift, torch.randn(256, 2)
        gap = critic(real).mean() - critic(fake).mean()
        step(10 * gradient_penalty(critic, between(real, fake)) - gap, Clock(k, k, k / 600))
    with torch.no_grad():
        gaps = [critic(torch.randn(4_000, 2) + shift).mean() - critic(torch.randn(4_000, 2)).mean() for _ in range(5)]
    assert float(torch.stack(gaps).mean()) == pytest.approx(2.0, rel=0.15)


def test_updates_find_the_gap_of_the_penalized_problem():
    """From one point to a ring of radius d: k d - 10 (k - 1)^2 is largest for the slope k = 1 + d / 20."""
    generator = Generator(MLPDecoder(2, (2,), ()), 2)
    for weight in generator.parameters():
        torch.nn.init.zeros_(weight)
    config = WGANConfig(batch_size=32, critic_steps=2, penalty=10.0)
    learner = WGAN(generator, Critic(MLP(2, (16, 16))), adam(3e-3, betas=(0.0, 0.9)), config)
    learner.generator_step.rule = sgd(0.0)
    gaps = [float(update.metrics["distance"]) for _, update in run(learner, WGAN.tiny()[1], 150, compile=False)]
    assert np.mean(gaps[-20:]) == pytest.approx(2 * (1 + 2 / 20), abs=0.1)
    assert not any(weight.detach().any() for weight in generator.parameters())


def test_configs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"WGANConfig\.critic_steps must be at least 1"):
        WGANConfig(critic_steps=0)


def test_no_constraint_is_forgotten():
    """The three settings lead to three different critics from one start."""
    learned = [trained(kind, 2).critic.parameters() for kind in ("clip", "penalty", "spectral")]
    critics = [torch.cat([weight.detach().flatten() for weight in weights]) for weights in learned]
    for one, other in itertools.combinations(critics, 2):
        assert one.shape != other.shape or not torch.allclose(one, other)


class Bowl(torch.nn.Module):
    """f(x) = w |x|^2 / 2, whose gradient is w x."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.w * x.square().sum(1) / 2


def test_the_penalty_of_an_update_is_between_real_and_fake_examples():
    """From 0 to a point at 2 the slopes of a bowl are 2u: E[(2u - 1)^2] = 1/3, and 1 at either end."""
    generator = Generator(MLPDecoder(2, (2,), ()), 2)
    for weight in generator.parameters():
        torch.nn.init.zeros_(weight)
    real = torch.tensor([1.2, 1.6]).expand(20_000, 2)
    learner = WGAN(generator, Bowl(), sgd(0.0), WGANConfig(critic_steps=1, penalty=10.0))  # type: ignore[arg-type]
    found = learner.update(Examples(real, None, torch.arange(20_000), Clock(0, 0, 0.0))).metrics
    assert float(found["distance"]) == pytest.approx(2.0)
    assert float(found["critic_loss"]) == pytest.approx(-2.0 + 10.0 / 3.0, abs=0.1)


@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_the_critic_sees_real_and_fake_examples_with_instance_noise(deviation):
    generator = Generator(MLPDecoder(2, (2,), ()), 2)
    for weight in generator.parameters():
        torch.nn.init.zeros_(weight)
    seen = []

    class Recording(Bowl):
        def forward(self, x):
            seen.append(x.detach())
            return super().forward(x)

    critic: Any = Recording()
    learner = WGAN(generator, critic, sgd(0.0), WGANConfig(critic_steps=1, instance_noise=deviation))
    real = torch.tensor([1.2, 1.6]).expand(20_000, 2)
    found = learner.update(Examples(real, None, torch.arange(20_000), Clock(0, 0, 0.0))).metrics
    for x, center in zip([seen[0], seen[1], seen[3]], [real, 0.0, 0.0], strict=True):
        assert float((x - center).std()) == pytest.approx(deviation, abs=0.01)
    assert float(found["generator_loss"]) == pytest.approx(-(deviation**2), abs=0.01)  # -E|n|^2 / 2 in the plane
