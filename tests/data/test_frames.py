"""Frames of environments as examples."""

import sys

import gymnasium
import numpy as np
import pytest
import torch

from agentlib.data import frames
from agentlib.data.augmentation import RandomFrame


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


def test_windows_are_observations_in_a_row_of_one_episode(monkeypatch):
    single, data = frames("agentlib/Catch-v0", 60, seed=3).x, frames("agentlib/Catch-v0", 40, window=4, seed=3).x
    assert data.shape == (40, 4, 1, 36, 36)
    assert torch.equal(data[0], single[:4])
    rows = (data[:, :, 0, ::3, 0::3] == 1.0).any(-1).int().argmax(-1)  # of the ball
    steps = rows.diff(dim=1)
    assert ((steps == 1) | (steps == -9)).all(), "it falls, or was caught and the next one falls; it never starts anew"
    monkeypatch.setattr(sys.modules["agentlib.data.frames"], "PATIENCE", 20)
    with pytest.raises(ValueError, match="take a smaller window"):
        frames("CartPole-v1", 5, window=200)


def test_a_random_frame_is_one_of_its_window():
    windows = 10 * torch.arange(300)[:, None] + torch.arange(3)  # (B, 3)
    taken = RandomFrame()(windows)
    assert torch.equal(taken // 10, torch.arange(300))
    assert (taken % 10).bincount().min() > 70


def test_vectors_and_what_is_neither():
    assert frames("CartPole-v1", 20).x.shape == (20, 4)
    with pytest.raises(ValueError, match=r"of Box observations, not of Discrete\(4\)"):
        frames("agentlib/Identity-v0", 5)
