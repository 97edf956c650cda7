import gymnasium
import numpy as np
from gymnasium import spaces

from agentlib.envs.vector import Environments
from agentlib.experience import Demonstrations
from agentlib.experience.recording import Recorder, _with_noise


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


def recorder():
    envs = Environments(gymnasium.make("CartPole-v1"))
    return Recorder(envs, Demonstrations(envs.observation_space, envs.action_space))


def test_a_recorder_goes_on_in_the_middle_of_an_episode():
    def steps(one, count):
        for _ in range(count):
            one.step(np.ones(1, np.int64), np.zeros(1, np.int64), np.ones(1, bool), np.zeros(1, bool))

    before, after = recorder(), recorder()
    before.reset(seed=0)
    steps(before, 4)
    after.load_state(before.state())
    np.testing.assert_array_equal(after.observation, before.observation)
    for one in (before, after):
        steps(one, 30)
    assert len(after.demonstrations) == len(before.demonstrations) >= 2
    assert after.demonstrations.fingerprint() == before.demonstrations.fingerprint()
    assert after.demonstrations[0].observations.shape == (after.demonstrations.lengths[0] + 1, 4)
    after.load_state({})
    assert after.observation is None
    assert before.state()
    assert not after.state()
