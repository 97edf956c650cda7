"""Images of any layout are moved as those of (B, C, H, W) are; DQN and BC do it to their batches."""

import pytest
import torch

from agentlib.backbones import CNN, MLP, adam
from agentlib.backbones.images import ImageLayout
from agentlib.core import Clock
from agentlib.data.augmentation import RandomShift
from agentlib.experience import Transition
from agentlib.learners import DQN, DQNConfig
from agentlib.policies import CategoricalPolicy, QPolicy
from agentlib.policies.shifting import shifted

LAYOUTS = {
    "first": ((3, 8, 10), False),
    "last": ((8, 10, 3), True),
    "stacked": ((2, 8, 10, 3), True),
    "one": ((1, 8, 10), False),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_equals_the_shift_of_plain_images(name):
    shape, last = LAYOUTS[name]
    policy = CategoricalPolicy(CNN(shape, (4,), channels_last=last), 3)
    x = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    layout = ImageLayout(shape, last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = shifted(policy, x, 2)
        torch.manual_seed(0)
        wanted = RandomShift(2)(layout(x))
    assert moved.shape == x.shape
    assert moved.dtype == torch.uint8
    assert torch.equal(layout(moved), wanted)
    assert not torch.equal(moved, x)


def test_no_images():
    policy, points = QPolicy(MLP(6, (8,)), 2), torch.rand(4, 6)
    with pytest.raises(ValueError, match="random_shift moves images, and this network does not read single images"):
        shifted(policy, points, 2)
    assert shifted(policy, points, 0) is points


def test_dqn_learns_from_moved_images():
    """Both observations of a transition are moved, each by its own pixels; without it the batch is read as it is."""
    seen = []
    policy = QPolicy(CNN((1, 12, 12), (4,)), 2)
    policy.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    one = torch.ones(16)
    batch = Transition(
        x, torch.zeros(16, dtype=torch.int64), one, x, 0 * one, one, one, torch.arange(16), Clock(0, 0, 0.0)
    )
    for pixels in (0, 2):
        seen.clear()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            DQN(policy, adam(1e-3), DQNConfig(random_shift=pixels, double=True)).update(batch)
        assert torch.equal(seen[0], x) == (pixels == 0)
        assert torch.equal(seen[0], seen[1]) == (pixels == 0)
