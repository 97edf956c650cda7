"""InfoGAN's bound against the mutual information in closed form, and codes that are found without labels."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from agentlib.engine import run
from agentlib.learners.generative.infogan import InfoGAN, information_bound
from agentlib.runs.models import load_model, save_model


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        yield


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0, 30.0])
def test_the_bound_is_the_mutual_information_where_q_is_the_posterior(distance):
    """Of two Gaussians N(-d/2, 1) and N(d/2, 1): ln 2 - H(c | x), by quadrature."""
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    centers = torch.tensor([-0.5, 0.5], dtype=torch.float64) * distance
    logs = Normal(centers, 1.0).log_prob(grid[:, None])  # (grid, 2)
    conditional = (logs.exp() * logs.log_softmax(1)).sum(1).sum() / 2 * float(grid[1] - grid[0])
    information = math.log(2) + float(conditional)
    code = torch.randint(2, (200_000,))
    x = centers[code] + torch.randn(200_000, dtype=torch.float64)
    logits = Normal(centers, 1.0).log_prob(x[:, None])
    assert float(information_bound(logits, code)) == pytest.approx(information, abs=0.005)
    assert float(information_bound(0.3 * logits, code)) <= information + 0.005  # another Q: less
    assert float(information_bound(torch.zeros_like(logits), code)) == pytest.approx(0.0, abs=1e-12)
    assert information <= math.log(2) + 1e-9


def test_the_generator_and_the_reader_both_raise_the_bound():
    made: Any = InfoGAN.tiny()
    learner, source = made
    losses = []
    for step in (learner.discriminator_step, learner.generator_step):
        step.forward = lambda loss, clock: losses.append(loss)
    source.advance()
    batch = source.sample()
    found = learner.update(batch).metrics
    assert losses[1].item() == pytest.approx(float(found["generator_loss"] - found["information"]), abs=1e-6)
    with torch.no_grad():
        learner.model.head.weight[1:], learner.model.head.bias[1:] = 0.0, 0.0  # a reader that knows nothing
    found = learner.update(batch).metrics
    assert float(found["information"]) == pytest.approx(0.0, abs=1e-6)
    assert losses[2].item() == pytest.approx(float(found["discriminator_loss"]), abs=1e-6)
    (slope,) = torch.autograd.grad(losses[2], learner.model.head.weight)
    assert slope[1:].abs().max() > 0, "it learns in the discriminator's step"


@pytest.mark.slow
def test_codes_part_the_examples_and_are_read_again(tmp_path):
    learner, source = InfoGAN.tiny()
    found = [float(update.metrics["information"]) for _, update in run(learner, source, 1_500, compile=False)]
    assert 0.5 * math.log(8) < found[-1] <= math.log(8)
    model: Any = load_model(save_model(learner.product, tmp_path / "model"))[0]
    code = torch.arange(400) % 8
    samples = model.sample(400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, model.sample(400, code, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        assert float((model.code(samples) == code).float().mean()) > 0.5
