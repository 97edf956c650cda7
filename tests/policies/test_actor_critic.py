"""Policy and critic on one encoder: which layers are shared, and the output of both."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.backbones import MLP
from agentlib.backbones.choice import backbone_for
from agentlib.policies import ActorCritic, policy_for

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
FRAMES = spaces.Box(0, 255, (1, 36, 36), np.uint8)
BOTH = spaces.Dict(frame=FRAMES, vector=VECTOR)


@pytest.mark.parametrize(
    ("space", "widths", "shared"),
    [
        (VECTOR, {"net_arch": (8, 4)}, ()),
        (FRAMES, {}, ("convolutions", "linear")),  # as SB3: a CNN, and no layers behind it
        (FRAMES, {"net_arch": (8,)}, ("stages.0",)),
        (BOTH, {"net_arch": (8,)}, ("stages.0",)),
    ],
)
def test_the_encoder_is_shared_and_the_layers_are_not(space, widths, shared):
    networks = ActorCritic(policy_for(spaces.Discrete(2), backbone_for(space, **widths)))
    observation: Any = {"frame": torch.zeros(5, 1, 36, 36, dtype=torch.uint8), "vector": torch.randn(5, 3)}
    if space is not BOTH:
        observation = observation["vector" if space is VECTOR else "frame"]
    output, value = networks(observation)
    assert torch.equal(output, networks.policy(observation)[0])
    assert value.shape == (5,)
    value.sum().backward()
    moved = {name for name, parameter in networks.policy.backbone.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(shared) for name in moved)
    assert bool(moved) == bool(shared)


def test_the_critic_has_layers_like_the_policys_or_its_own():
    policy = policy_for(spaces.Discrete(2), MLP(3, (8, 4), "tanh"))
    assert (ActorCritic(policy).critic.hidden, ActorCritic(policy).critic.activation) == ((8, 4), "tanh")
    assert ActorCritic(policy, (16,)).critic.hidden == (16,)
    assert ActorCritic(policy, ()).head.in_features == 3
