"""Frames of environments as examples."""

import gymnasium
import numpy as np
import pytest
import torch

from agentlib.data import frames


def test_frames_are_what_the_environment_shows():
    data = frames("agentlib/Catch-v0", 60, seed=3)
    assert data.x.shape == (60, 1, 36, 36)
    assert data.y is None
    env = gymnasium.make("agentlib/Catch-v0")
    first, _ = env.reset(seed=3)
    np.testing.assert_allclose(data.x[0, 0].numpy() * 255, first, atol=1e-4)
    assert torch.equal(data.x, frames("agentlib/Catch-v0", 60, seed=3).x)
    assert not torch.equal(data.x, frames("agentlib/Catch-v0", 60, seed=4).x)
    shown = {round(float(value) * 255) for value in data.x.unique()}
    assert shown == {0, 96, 192, 255}


def test_vectors_and_what_is_neither():
    assert frames("CartPole-v1", 20).x.shape == (20, 4)
    with pytest.raises(ValueError, match=r"of Box observations, not of Discrete\(4\)"):
        frames("agentlib/Identity-v0", 5)
