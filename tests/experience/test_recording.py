import numpy as np
from gymnasium import spaces

from agentlib.experience.recording import _with_noise


def test_noise_is_legal_where_masks_say_so():
    masks = np.zeros((50, 4), bool)
    masks[:, [1, 3]] = True
    actions = np.ones(50, np.int64)
    noisy = _with_noise(actions, 1.0, spaces.Discrete(4), np.random.default_rng(0), masks)
    assert set(noisy.tolist()) == {1, 3}
    anything = _with_noise(actions, 1.0, spaces.Discrete(4, seed=0), np.random.default_rng(0))
    assert set(anything.tolist()) == {0, 1, 2, 3}
    some = _with_noise(actions, 0.5, spaces.Discrete(4), np.random.default_rng(0), masks)
    assert 5 < (some == 3).sum() < 21
