"""MAE: patches, what is hidden and put back, the loss over hidden patches alone, and refusals."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import agentlib
from agentlib.backbones import MLP, ViT
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.learners.self_supervised.mae import MAE, MaskedAutoencoder, patches_of, standardized, taken
from agentlib.runs.plan import job_of


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(side=8, patch=2, **settings):
    with fresh_weights(0):
        return MaskedAutoencoder(
            ViT((1, side, side), patch, 16, 1, 2, dropout=0.0), dim=16, layers=1, heads=2, **settings
        )


def test_patches_are_those_that_a_vit_sees():
    """A convolution whose kernel is its stride is a linear layer on patches."""
    vit, images = ViT((3, 6, 8), patch=2, dim=16, layers=1, heads=2), random(2, 3, 6, 8)
    linear = functional.linear(patches_of(images, 2), vit.patches.weight.flatten(1), vit.patches.bias)
    torch.testing.assert_close(linear, vit.patches(images).flatten(2).mT)
    found = standardized(patches_of(images, 2))
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(-1), torch.ones(2, 12), atol=1e-3, rtol=0)


def test_patches_come_back_to_their_places():
    tokens, order = random(3, 9, 4), random(3, 9, seed=1).argsort(1)
    assert torch.equal(taken(taken(tokens, order), order.argsort(1)), tokens)


def test_three_quarters_of_196_patches_leave_49():
    found = network(side=28, patch=2)
    assert (found.patches, found.visible) == (196, 49)
    _, hidden = found(random(5, 1, 28, 28))
    assert hidden.sum(1).tolist() == [147] * 5
    assert len({tuple(row.tolist()) for row in hidden}) == 5, "each image has a mask of its own"


def test_only_what_is_seen_reaches_the_predictions():
    """Numbers of hidden patches have no effect, those of seen ones have."""
    found, images = network(), random(1, 1, 8, 8).requires_grad_()
    prediction, hidden = found(images)
    (slope,) = torch.autograd.grad(prediction.square().sum(), images)
    felt = patches_of(slope, 2).abs().sum(-1) > 0  # (1, P)
    assert torch.equal(felt, ~hidden)


def test_a_seen_patch_keeps_its_place():
    """With a decoder that copies, the code of each seen patch stands where the patch was."""
    found, images = network(mask_ratio=0.5), random(2, 1, 8, 8)

    class Copied(nn.Module):
        def forward(self, x: Any) -> Any:
            return [x], []

    stack: Any = Copied()
    found.backbone.stack = found.decoder = stack
    found.narrow = found.output = nn.Identity()
    nn.init.zeros_(found.positions)
    nn.init.constant_(found.mask_token, -7.0)
    output, hidden = found(images)
    tokens = found.backbone.embed(images)[:, 1:]
    assert torch.equal(output[~hidden], tokens[~hidden])
    assert bool((output[hidden] == -7.0).all())


def test_the_loss_is_that_of_hidden_patches():
    learner, source = MAE.tiny()
    source.advance()
    source.fill_ticks(source.clock)
    batch = source.sample()
    prediction = torch.zeros(16, 9, 4)
    hidden = random(16, 9, seed=2).argsort(1).argsort(1) >= 2
    learner.network.forward = lambda images: (prediction + 0.0 * learner.network.mask_token.sum(), hidden)  # type: ignore[method-assign]
    found = learner.update(batch).per_sample
    target = standardized(patches_of(batch.x, 2))
    expected = torch.stack([target[i, hidden[i]].square().mean() for i in range(16)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("ratio", "left"), [(0.99, "nothing to see"), (1.0, "nothing to see"), (0.0, "nothing to predict")]
)
def test_a_mask_that_leaves_nothing_is_refused(ratio, left):
    with pytest.raises(
        ValueError, match=f"mask_ratio={ratio:g} leaves {left} of 16 patches: give between 0.062 and 0.938"
    ):
        network(mask_ratio=ratio)


def test_auto_is_a_vision_transformer_and_others_are_refused():
    images = Dataset(random(32, 1, 8, 8))
    learner: Any = job_of("mae", Problem(data=images, steps=1), batch_size=16).learner
    assert isinstance(learner.network.backbone, ViT)
    with pytest.raises(ValueError, match="mae hides patches of a ViT, this is a MLP: give backbone='vit'"):
        job_of("mae", Problem(data=images, steps=1, backbone=MLP(64)), batch_size=16)
    result: Any = agentlib.train("mae", data=images, steps=2, batch_size=16, progress=False)
    assert result.backbone(random(2, 1, 8, 8)).shape == (2, 64)
