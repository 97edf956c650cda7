"""The learner of diffusion models; the rest is in tests/backbones/test_diffusion.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import agentlib
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.engine import run
from agentlib.learners.generative.diffusion import Diffusion, denoising_losses, one_hot
from agentlib.runs.plan import job_of


def test_updates_and_samples_are_of_the_labels_that_are_asked_for():
    """The loss is that of each example's own label; another label, or none, gives another."""
    with torch.random.fork_rng(devices=[]):
        learner, source = Diffusion.tiny()
        for _ in run(learner, source, 3, compile=False):
            pass
        source.advance()
        batch = source.sample()
        losses = []
        for condition in (one_hot(batch.y, 8), one_hot((batch.y + 1) % 8, 8), None):
            torch.random.manual_seed(0)
            losses.append(denoising_losses(learner.model, batch.x, condition).detach())
        torch.random.manual_seed(0)
        found = learner.update(batch).per_sample
    torch.testing.assert_close(found, losses[0])
    assert (losses[0] - losses[1]).abs().max() > 1e-3
    assert (losses[0] - losses[2]).abs().max() > 1e-3
    one, same, other = (
        learner.sample(20, torch.full((20,), label), torch.Generator().manual_seed(0)) for label in (0, 0, 3)
    )
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 1e-3


def test_labels_are_hidden_in_training_for_guidance():
    with torch.random.fork_rng(devices=[]):
        learner, source = Diffusion.tiny()
        learner.config = replace(learner.config, condition_dropout=1.0, guidance_scale=3.0)
        source.advance()
        batch = source.sample()
        torch.random.manual_seed(0)
        torch.rand(len(batch.x), 1)
        expected = denoising_losses(learner.model, batch.x).detach()
        torch.random.manual_seed(0)
        found = learner.update(batch).per_sample
    torch.testing.assert_close(found, expected)
    label = torch.full((20,), 3)
    guided = learner.sample(20, label, torch.Generator().manual_seed(0))
    learner.config = replace(learner.config, guidance_scale=1.0)
    plain = learner.sample(20, label, torch.Generator().manual_seed(0))
    assert (guided - plain).abs().max() > 1e-4


def test_conditions_may_be_rows_of_numbers(tmp_path):
    """Points lie where their condition is; a condition that training did not have is followed, too."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(400, 2, generator=generator)
    x = 3.0 * y + 0.02 * torch.randn(400, 2, generator=generator)
    settings: Any = {"steps": 250, "noise_steps": 20, "batch_size": 64, "net_arch": (64, 64), "average": 0.98}
    result: Any = agentlib.train(
        "diffusion", data=Dataset(x, y), conditional=True, out=tmp_path, progress=False, **settings
    )
    assert "test/nearest_neighbor_accuracy" in result.measures
    assert "test/label_agreement" not in result.measures
    asked = torch.tensor([[0.2, 0.9]]).repeat(50, 1)
    found = result.model.sample(50, asked, generator=generator)
    assert (found.mean(0) - 3.0 * asked[0]).abs().max() < 0.4
    for wrong in (torch.tensor([0, 1]), torch.rand(2, 3), torch.rand(1, 2)):
        with pytest.raises(ValueError, match=r"the condition has shape .*, and \(2, 2\) is needed"):
            result.model.sample(2, wrong)
    with pytest.raises(ValueError, match=r"a row of numbers \(N, k\), for each example"):
        job_of("diffusion", Problem(data=Dataset(x, y[:, 0]), steps=1), conditional=True)
    with pytest.raises(ValueError, match="needs a label for each example; the data has targets that are no classes"):
        job_of("gan", Problem(data=Dataset(x, y), steps=1), conditional=True)
