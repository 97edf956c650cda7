"""The learner of diffusion models; the rest is in tests/backbones/test_diffusion.py."""

from dataclasses import replace

import torch

from agentlib.engine import run
from agentlib.learners.generative.diffusion import Diffusion, denoising_losses, one_hot


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
