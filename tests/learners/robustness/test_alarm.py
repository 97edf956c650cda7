import gymnasium
import numpy as np
import pytest

from agentlib.learners.robustness.alarm import DynamicsAlarm, Transitions, played
from agentlib.metrics.detection import detection


def swings(n, seed, gain=1.0):
    """x' = .9 x + gain (2a - 1) + noise: an error of one deviation is 1."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2)).astype(np.float32)
    action = generator.integers(2, size=n)
    noise = 0.1 * generator.normal(size=(n, 2))
    return Transitions(x, action, (0.9 * x + gain * (2 * action - 1)[:, None] + noise).astype(np.float32))


def test_usual_surprise_is_about_one_and_changes_are_seen():
    alarm = DynamicsAlarm(swings(2000, 0), n_actions=2, hidden=(16,), updates=400)
    usual = alarm(swings(1000, 1))
    assert usual.mean() == pytest.approx(1.0, abs=0.25)
    changed = alarm(swings(1000, 2, gain=1.5))
    assert detection(usual, changed).auroc > 0.95
    assert detection(usual, alarm(swings(1000, 3))).auroc == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(alarm(swings(50, 1)), alarm(swings(50, 1)))


class Still:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.int64(0), None


def test_what_was_played():
    env = gymnasium.make("CartPole-v1")
    transitions = played(Still(), env, 200, seed=3)
    again = played(Still(), gymnasium.make("CartPole-v1"), 200, seed=3)
    for name in Transitions._fields:
        assert np.array_equal(getattr(transitions, name), getattr(again, name))
    assert 0.0 < transitions.action.mean() < 0.2
    follows = (transitions.next_observation[:-1] == transitions.observation[1:]).all(1)
    assert 5 < (~follows).sum() < 40  # the first observation of an episode follows on nothing
    with pytest.raises(TypeError, match="vectors to observe and discrete actions"):
        played(Still(), gymnasium.make("Pendulum-v1"), 5)
