"""A student acts by its policy, and gates ask where it is unsure."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.backbones import LSTM, MLP, WithMemory
from agentlib.core.randomness import fresh_weights
from agentlib.metrics.calibration import fit_temperature
from agentlib.policies import CategoricalPolicy, DisagreementGate, EnsemblePolicy, QPolicy, Student, UnsureGate
from agentlib.policies.student import Proposed

SPACE = spaces.Box(-1, 1, (4,), np.float32)
SEEN = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
START = np.zeros(2000, bool)


def a_policy(backbone=None, seed=0):
    with fresh_weights(seed):
        return CategoricalPolicy(backbone or MLP(4, (8,)), 3)


def test_actions_are_the_best_or_sampled():
    policy = a_policy()
    with torch.no_grad():
        probabilities = policy.probabilities(policy(torch.from_numpy(SEEN))[0]).numpy()
    best = Student(policy, SPACE, deterministic=True)(SEEN, START)
    np.testing.assert_array_equal(best.action, probabilities.argmax(1))
    sampled = Student(policy, SPACE)(SEEN, START).action
    counts = np.bincount(sampled, minlength=3) / 2000
    np.testing.assert_allclose(counts, probabilities.mean(0), atol=0.04)


def test_draws_are_the_students_own_and_can_be_gone_on_with():
    policy, before = a_policy(), torch.get_rng_state()
    one, same, other = Student(policy, SPACE, seed=1), Student(policy, SPACE, seed=1), Student(policy, SPACE, seed=2)
    first = one(SEEN, START).action
    np.testing.assert_array_equal(same(SEEN, START).action, first)
    assert (other(SEEN, START).action != first).any()
    other.load_state(one.state())
    np.testing.assert_array_equal(other(SEEN, START).action, one(SEEN, START).action)
    assert torch.equal(torch.get_rng_state(), before)


def test_action_values_have_no_distribution_to_draw_from():
    with fresh_weights(0):
        policy = QPolicy(MLP(4, (8,)), 3)
    first, second = (Student(policy, SPACE)(SEEN, START).action for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_memory_starts_anew_where_an_episode_does():
    with fresh_weights(0):
        encoder = MLP(4, (8,))
        policy = CategoricalPolicy(WithMemory(encoder, LSTM(8, 8)), 3)
    student, fresh = Student(policy, SPACE, deterministic=True), Student(policy, SPACE, deterministic=True)
    everywhere = np.ones(2, bool)
    student(SEEN[:2], everywhere)
    later = student(SEEN[2:4], np.array([True, False])).output
    first = fresh(SEEN[2:4], everywhere).output
    torch.testing.assert_close(later[0], first[0])
    assert not torch.allclose(later[1], first[1])


def proposed(logits):
    return Proposed(np.zeros(len(logits), np.int64), torch.tensor(logits))


def test_unsure_is_below_the_threshold():
    gate = UnsureGate(a_policy(), threshold=0.8)
    logits = np.log([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.1, 0.81, 0.09]]).tolist()
    assert gate(None, proposed(logits)).tolist() == [False, True, False]
    hot = UnsureGate(a_policy(), threshold=0.8, temperature=2.0)
    assert hot(None, proposed(logits)).tolist() == [True, True, True]
    with fresh_weights(0):
        values = QPolicy(MLP(4, (8,)), 3)
    with pytest.raises(ValueError, match="no probabilities"):
        UnsureGate(values)


def test_calibration_finds_the_temperature():
    gate = UnsureGate(a_policy())
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        logits = 4.0 * torch.randn(4000, 3)
        label = torch.distributions.Categorical(logits=logits / 2.5).sample()
    gate.calibrate(logits, label)
    assert gate.temperature == pytest.approx(fit_temperature(logits, label), rel=0.01)
    assert gate.temperature == pytest.approx(2.5, rel=0.1)
    again = UnsureGate(a_policy())
    again.load_state(gate.state())
    assert again.temperature == gate.temperature

    gate.calibrate(logits[:0], label[:0])  # nobody was asked
    assert gate.temperature == again.temperature
    gate.calibrate(logits, logits.argmax(1))  # right everywhere
    assert gate.temperature == 1.0


def test_disagreement_is_the_ensembles():
    policy = EnsemblePolicy([a_policy(seed=seed) for seed in range(3)])
    gate = DisagreementGate(policy, threshold=0.5)
    agree, apart = [[9.0, 0.0, 0.0]] * 3, [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]
    assert gate(None, proposed([agree, apart])).tolist() == [False, True]
    with pytest.raises(ValueError, match="needs an ensemble"):
        DisagreementGate(a_policy())
