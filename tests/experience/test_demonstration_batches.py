"""Batches of demonstrations: every label once per epoch, chunks within episodes, steps without a label left out."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.backbones import MLP, adam
from agentlib.experience import Demonstration, DemonstrationBatches, Demonstrations
from agentlib.learners import BC, run
from agentlib.policies import CategoricalPolicy
from tests.experience.test_demonstrations import ACTIONS, some

SPACE, DONE = spaces.Box(0, 1e6, (2,), np.float64), spaces.Discrete(1000, start=5)


def numbered(lengths, labelled=None):
    """Observations say (episode, step); the label is 10 * episode + step, from 0."""
    made = Demonstrations(SPACE, DONE)
    for number, length in enumerate(lengths):
        t = np.arange(length + 1)
        label = 5 + 10 * number + t[:-1]
        seen = np.stack([np.full(length + 1, number), t], 1).astype(np.float64)
        known = None if labelled is None else labelled(number, t[:-1])
        made.append(Demonstration(seen, np.full(length, 5), np.zeros(length), labels=label, labelled=known))
    return made


def next_rows(source, count):
    """The next batches: rows of (episode, step, label)."""
    rows = []
    for _ in range(count):
        source.advance()
        batch = source.sample()
        rows.append(np.column_stack([batch.observation.numpy(), batch.action.numpy()]))
    return np.concatenate(rows)


def test_each_label_comes_once_an_epoch_in_a_new_order():
    source = DemonstrationBatches(numbered([3, 4, 5]), batch_size=5)
    assert source.updates_for(1) == 3  # 12 labels
    rows = next_rows(source, 12)  # five epochs of 12

    orders = []
    for epoch in rows.reshape(5, 12, 3):
        assert (epoch[:, 2] == 10 * epoch[:, 0] + epoch[:, 1]).all()
        assert sorted(epoch[:, 2]) == sorted([*range(3), *range(10, 14), *range(20, 25)])
        orders.append(tuple(epoch[:, 2]))
    assert len(set(orders)) == 5


def test_batches_may_be_larger_than_what_there_is():
    rows = next_rows(DemonstrationBatches(numbered([3]), batch_size=9), 1)
    assert sorted(rows[:, 2]) == sorted([0, 1, 2] * 3)


def test_steps_without_a_label_are_left_out():
    source = DemonstrationBatches(numbered([4, 6], lambda number, t: (t + number) % 2 == 0), batch_size=5)
    assert source.feed.epoch_updates == 1
    assert sorted(next_rows(source, 1)[:, 2]) == [0, 2, 11, 13, 15]
    with pytest.raises(ValueError, match="no labelled steps"):
        DemonstrationBatches(numbered([4], lambda number, t: t < 0))


@pytest.mark.parametrize("action", ACTIONS)
def test_tensors_are_as_policies_want_them(action):
    demonstrations, _ = some(action_space=ACTIONS[action], labels=False)
    source = DemonstrationBatches(demonstrations, batch_size=4)
    source.advance()
    batch = source.sample()
    assert batch.action.dtype == (torch.float32 if action == "numbers" else torch.int64)
    assert batch.action.shape == (4, *(ACTIONS[action].shape or ()))
    assert batch.observation["image"].dtype == torch.uint8
    assert batch.observation["speed"].dtype == torch.float32
    assert batch.weight.tolist() == [1.0] * 4


def test_chunks_lie_within_episodes_and_say_where_they_end():
    demonstrations = numbered([3, 8, 20], lambda number, t: t % 3 != 1)
    source = DemonstrationBatches(demonstrations, batch_size=8, sequence_length=6, from_start=0.5)
    begins = []
    for _ in range(100):
        source.advance()
        batch = source.sample()
        episode, step = batch.observation.numpy()[..., 0], batch.observation.numpy()[..., 1]
        length = np.array([3, 8, 20])[episode[:, 0].astype(int)]
        assert (episode == episode[:, :1]).all()
        begin = step[:, 0]
        t = begin[:, None] + np.arange(6)
        inside = t < length[:, None]
        np.testing.assert_array_equal(step[inside], t[inside])
        np.testing.assert_array_equal(batch.weight.numpy(), inside & (t % 3 != 1))
        labelled = batch.weight.numpy() > 0
        np.testing.assert_array_equal(batch.action.numpy()[labelled], (10 * episode + step)[labelled])
        np.testing.assert_array_equal(batch.episode_start.numpy(), np.arange(6) == np.zeros((8, 1)))
        assert (begin[:4] == 0).all()
        assert (begin + 6 <= np.maximum(length, 6)).all()  # no chunk is shorter than it must be
        begins += [(e, b) for e, b in zip(episode[4:, 0], begin[4:], strict=True)]
    share = [np.mean([e == number for e, _ in begins]) for number in range(3)]
    np.testing.assert_allclose(share, np.array([3, 8, 20]) / 31, atol=0.09)
    assert {b for e, b in begins if e == 2} == set(range(15))


@pytest.mark.parametrize("sequence_length", [None, 4])
def test_it_goes_on_where_it_was(sequence_length):
    def make(seed):
        return DemonstrationBatches(numbered([5, 9]), batch_size=4, sequence_length=sequence_length, seed=seed)

    source, other = make(0), make(1)
    for _ in range(3):
        source.advance()
    other.load_state_dict(source.state_dict())
    for _ in range(6):
        source.advance()
        other.advance()
        for mine, theirs in zip(source.sample()[:4], other.sample()[:4], strict=True):
            assert torch.equal(mine, theirs)


def test_two_seeds_two_orders():
    first, again, other = (next_rows(DemonstrationBatches(numbered([9]), batch_size=9, seed=s), 1) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_data_is_read_in_place():
    """Nothing of the demonstrations is copied but the batch, however often."""
    demonstrations = numbered([50] * 4)
    source = DemonstrationBatches(demonstrations, batch_size=4)
    policy = CategoricalPolicy(MLP(2, (8,)), 1000)
    held = sum(buffer.numel() for buffer in source.buffers())
    list(run(BC(policy, adam(1e-3)), source, 5, compile=False))
    assert sum(buffer.numel() for buffer in source.buffers()) == held < 50
    assert source.feed.demonstrations is demonstrations
