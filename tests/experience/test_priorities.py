"""Draws in proportion to priorities: against a naive search through a cumulative sum, and inside a replay buffer."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from agentlib.experience import ReplayBuffer
from agentlib.experience.priorities import Priorities

quick = partial(settings, deadline=None, derandomize=True)
SIZES = [1, 2, 31, 32, 33, 1_024, 1_025, 32_769]
"""Around one node (32 entries), and one, two and three levels of them."""


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def filled(priority: np.ndarray) -> Priorities:
    priorities = Priorities(len(priority))
    priorities.set(torch.arange(len(priority)), torch.from_numpy(priority))
    return priorities


def assert_as_naive(priorities: Priorities, priority: np.ndarray, count: int, seed: int) -> None:
    """For the same random numbers, the entries that a cumulative sum and numpy's search find."""
    torch.manual_seed(seed)
    index, probability = (part.numpy() for part in priorities.draw(count))
    torch.manual_seed(seed)
    cumulative = np.cumsum(priority.astype(np.float64))
    total = cumulative[-1]
    mass = (np.arange(count) + torch.rand(count, dtype=torch.float64).numpy()) * (total / count)
    naive = np.minimum(np.searchsorted(cumulative, mass, side="right"), len(priority) - 1)
    # Sums are rounded in another order: at the very edge of an entry, either side is right.
    edges = np.concatenate([[0.0], cumulative])
    edge = np.minimum(abs(mass - edges[naive]), abs(mass - edges[naive + 1])) < 1e-12 * total
    assert ((index == naive) | edge).all()
    assert (priority[index] > 0).all()
    np.testing.assert_allclose(probability, priority[index] / total, rtol=1e-5)


KINDS = {
    "equal": lambda rng, size: np.ones(size),
    "uniform": lambda rng, size: rng.random(size),
    "extreme": lambda rng, size: 10.0 ** rng.uniform(-6, 6, size),
    "mostly zero": lambda rng, size: rng.random(size) * (rng.random(size) < 0.05),
    "one tiny, one huge": lambda rng, size: np.where(np.arange(size) == size // 2, 1e6, 1e-6),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_entries_as_a_naive_search(kind, size):
    priority = KINDS[kind](np.random.default_rng(size), size).astype(np.float32)
    priority[-1] = max(priority[-1], 1e-6)  # never all zero
    priorities = filled(priority)
    for count in (1, 32, 1000):
        assert_as_naive(priorities, priority, count, seed=count)


@quick(max_examples=40)
@given(st.data())
def test_changes_in_any_order_leave_exact_sums(data):
    """After any series of `set`, with repeated entries, draws are those of the priorities that were set last."""
    size = data.draw(st.sampled_from(SIZES[:-1]) | st.integers(1, 40_000))
    priority = np.zeros(size, np.float32)
    priorities = Priorities(size)
    values = st.sampled_from([0.0, 1e-6, 0.3, 1.0, 7.5, 1e6])
    changes = data.draw(st.lists(st.lists(st.tuples(st.integers(0, size - 1), values), min_size=1), min_size=1))
    for change in changes:
        given = dict(change)
        index = np.array([entry for entry, _ in change])  # an entry may be named twice, with the same priority
        priority[index] = [given[entry] for entry in index]
        priorities.set(torch.from_numpy(index), torch.from_numpy(priority[index]))
    np.testing.assert_array_equal(priorities.get(torch.arange(size)).numpy(), priority)
    assert priorities._levels()[-1].double().sum().item() == pytest.approx(priority.sum(dtype=np.float64), rel=1e-12)
    if priority.any():
        assert_as_naive(priorities, priority, 64, seed=1)


@pytest.mark.parametrize("size", [2, 33, 1_025, 32_769])
def test_draws_follow_the_priorities(size):
    rng = np.random.default_rng(0)
    priority = np.zeros(size)
    there = rng.permutation(size)[:30]
    priority[there] = rng.uniform(0.2, 3, len(there))
    priorities = filled(priority)
    expected = priority[there] / priority.sum()
    # In large batches: one draw per stratum, so that each entry is drawn as often as it should be, give or take one.
    index, _ = priorities.draw(20_000)
    counts = index.bincount(minlength=size).numpy()[there]
    assert counts.sum() == 20_000
    assert (abs(counts - expected * 20_000) <= 2).all()
    # One by one: by chance.
    singles = torch.cat([priorities.draw(1)[0] for _ in range(600)])
    assert chisquare(singles.bincount(minlength=size).numpy()[there], expected * 600).pvalue > 1e-3


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("where", [0, 1, 31, 32, 1_023, 1_024, 32_767, 32_768, 39_999])
def test_no_random_number_leads_to_an_entry_of_priority_0(where, number):
    """The least and the greatest number that `torch.rand` can give: rounding may not lead past the last entry."""
    priority = np.zeros(40_000, np.float32)
    priority[where] = 0.7
    priority[20_000 : 20_000 + where % 5] = 1e-6
    priorities = filled(priority)
    with patch("torch.rand", lambda count, **kwargs: torch.full((count,), number, **kwargs)):
        for count in (1, 2, 7, 64):
            assert (priorities.get(priorities.draw(count)[0]) > 0).all()


@quick(max_examples=30)
@given(seed=st.integers(0, 2**20), size=st.sampled_from([300, 20_000, 40_000]))
def test_far_apart_priorities_never_lead_to_an_entry_of_priority_0(seed, size):
    """Also where the mass before an entry is so much larger than the entry that differences are all rounding."""
    rng = np.random.default_rng(seed)
    priority = (10.0 ** rng.uniform(-6, 6, size) * (rng.random(size) < 0.01)).astype(np.float32)
    priority[: size // 2] *= 1e6
    priority[rng.integers(size)] = 1.0
    priorities = filled(priority)
    edges = torch.from_numpy(np.cumsum(priority.astype(np.float64)) / priority.sum(dtype=np.float64))
    edges = edges[torch.randperm(size)[:300]].sort().values
    strata = torch.arange(300)
    with patch("torch.rand", lambda count, **kwargs: edges * count - strata):  # every draw at the edge of an entry
        index, _ = priorities.draw(300)
    assert (priorities.get(index) > 0).all()


def buffer_of(steps: int, size: int = 20, *, large: bool = False, length: int = 4) -> ReplayBuffer:
    """A buffer with `steps` transitions in episodes of `length` steps; observations count the steps."""
    with patch("agentlib.experience.replay_buffer.SMALL_OBSERVATION", 0 if large else 1024):
        buffer = ReplayBuffer(spaces.Box(0, 255, (1,)), spaces.Discrete(2), size, prioritized=True)
    buffer.begin(np.zeros((1, 1)))
    write(buffer, 0, steps, length)
    return buffer


def write(buffer: ReplayBuffer, start: int, end: int, length: int = 4) -> None:
    no, yes = np.zeros(1, bool), np.ones(1, bool)
    for step in range(start, end):
        done = (step + 1) % length == 0
        buffer.add(np.zeros(1), np.zeros(1), yes if done else no, no, np.full((1, 1), step + 1))
        if done:
            buffer.begin(np.full((1, 1), step + 1))
    buffer.flush()


def steps_of(buffer: ReplayBuffer, index: torch.Tensor) -> np.ndarray:
    return buffer.gather(index).observation[:, 0].long().numpy()


def test_new_transitions_get_the_largest_priority_so_far():
    """1 at first; so that each is soon seen at least once (Schaul et al. 2016, algorithm 1)."""
    buffer = buffer_of(6)
    assert buffer.priorities is not None
    assert buffer.priorities.get(torch.arange(8)).tolist() == [1.0] * 6 + [0.0] * 2
    buffer.set_priorities(torch.tensor([0, 1, 2]), torch.tensor([0.5, 3.0, 0.1]))
    write(buffer, 6, 7)
    assert buffer.priorities.get(torch.arange(8)).tolist() == pytest.approx([0.5, 3, 0.1, 1, 1, 1, 3, 0])
    buffer.set_priorities(torch.tensor([1]), torch.tensor([0.2]))  # the largest so far stays the largest so far
    write(buffer, 7, 8)
    assert buffer.priorities.get(torch.arange(8)).tolist() == pytest.approx([0.5, 0.2, 0.1, 1, 1, 1, 3, 3])


@pytest.mark.parametrize("large", [False, True])
def test_evicted_transitions_are_never_drawn(large):
    """Overwritten ones, and those whose frames are gone: draws give exactly what is still there, at any time."""
    buffer = buffer_of(0, large=large, length=2)
    for start in range(0, 90, 5):
        write(buffer, start, start + 5, length=2)
        index, _ = buffer.draw(300)
        assert sorted(set(steps_of(buffer, index))) == list(range(start + 5 - len(buffer), start + 5))
        buffer.set_priorities(index, (index + 1).float())  # an entry drawn twice gets the same priority twice
    assert len(buffer) < 16 if large else len(buffer) == 20


def test_a_buffer_draws_in_proportion_to_its_priorities():
    buffer = buffer_of(50)
    priority = torch.from_numpy(np.random.default_rng(0).uniform(0.1, 2, 20)).float()
    buffer.set_priorities(torch.arange(20), priority)
    counts = torch.cat([buffer.draw(1)[0] for _ in range(600)]).bincount(minlength=20)
    share = priority.double() / priority.double().sum()
    assert chisquare(counts.numpy(), (share * 600).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0, torch.tensor(0.7, dtype=torch.float64)])
def test_importance_weights_are_those_of_the_paper(beta):
    """w_i = (N P(i))^-beta / max_j w_j, with N the transitions that are there, not the room for them."""
    buffer = buffer_of(13)
    priority = np.random.default_rng(1).uniform(0.1, 2, 13)
    buffer.set_priorities(torch.arange(13), torch.from_numpy(priority).float())
    index, weight = buffer.draw(64, beta)
    probability = priority[index.numpy()] / priority.sum()
    expected = (13 * probability) ** -float(beta)
    np.testing.assert_allclose(weight.numpy(), expected / expected.max(), rtol=1e-5)
    assert weight.dtype == torch.float32


def test_without_differences_prioritized_sampling_is_uniform():
    """All priorities equal: all weights are 1, and a batch as large as the buffer holds each transition once."""
    buffer = buffer_of(50)
    index, weight = buffer.draw(20, 0.5)
    assert sorted(index.tolist()) == list(range(20))
    assert (weight == 1).all()
