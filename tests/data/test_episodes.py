"""Tasks: their shapes, that support and query are apart, and what is refused."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.data import Dataset, dataset
from agentlib.data.episodes import Episodes, Pools, Sinusoids, labelled_steps, split_classes
from agentlib.data.glyphs import draw_glyphs
from agentlib.experience import Demonstrations, record_episodes


def numbered(classes=6, each=5):
    """Examples that say which class and which row they are."""
    labels = torch.arange(classes).repeat_interleave(each)
    x = torch.stack([labels.float(), torch.arange(classes * each).float()], 1)
    return Dataset(x, labels, tuple("ABCDEFGHIJ"[:classes]))


def drawn(source):
    source.advance()
    return source.sample()


def test_sinusoids():
    source = Sinusoids(2000, 5, 7, seed=1)
    batch = drawn(source)
    assert batch.support.x.shape == batch.support.y.shape == (2000, 5, 1)
    assert batch.query.x.shape == batch.query.y.shape == (2000, 7, 1)
    x = torch.cat([batch.support.x, batch.query.x], 1)[..., 0]  # (2000, 12)
    y = torch.cat([batch.support.y, batch.query.y], 1)[..., 0]
    # One sine fits all points of a task: y is in the span of sin x and cos x.
    basis = torch.stack([x.sin(), x.cos()], -1).double()  # (2000, 12, 2)
    found = torch.linalg.lstsq(basis, y[..., None].double()).solution
    torch.testing.assert_close(basis @ found, y[..., None].double(), atol=1e-4, rtol=0)
    amplitude = found[..., 0].norm(dim=1)
    assert 0.1 - 1e-3 < float(amplitude.min()) < 0.2
    assert 4.9 < float(amplitude.max()) < 5.0 + 1e-3
    # The null values: predicting nothing, and the best that does not know the task.
    assert float(y.square().mean()) == pytest.approx(4.252, abs=0.25)
    best = 2.55 * (2 / np.pi) * x.cos()
    assert float((y - best).square().mean()) == pytest.approx(3.01, abs=0.25)


def test_episodes_hold_the_examples_that_they_say():
    data = numbered()
    source = Episodes(data, ways=3, shots=2, queries=1, tasks=4, seed=0)
    batch = drawn(source)
    assert batch.support.x.shape == (4, 6, 2)
    assert batch.query.x.shape == (4, 3, 2)
    for task in range(4):
        x = torch.cat([batch.support.x[task], batch.query.x[task]])
        y = torch.cat([batch.support.y[task], batch.query.y[task]])
        assert len(x[:, 1].unique()) == len(x), "an example is there twice"
        classes = [x[y == label, 0].unique() for label in range(3)]
        assert all(len(found) == 1 for found in classes), "a label names two classes"
        assert len(torch.cat(classes).unique()) == 3, "two labels name a class"
    # Labels are given anew for each task.
    names = [tuple(int(x[0]) for x in drawn(source).support.x[:, 0]) for _ in range(20)]
    assert len(set(names)) > 10


def test_pools():
    tasks, n = 5, 8
    x = torch.arange(tasks * n, dtype=torch.float32).view(tasks, n, 1)
    source = Pools(x, x[..., 0].long(), shots=3, queries=4, tasks=2, seed=0)
    batch = drawn(source)
    assert batch.support.x.shape == (2, 3, 1)
    assert batch.query.y.shape == (2, 4)
    rows = torch.cat([batch.support.y, batch.query.y], 1)
    assert torch.equal(torch.cat([batch.support.x, batch.query.x], 1)[..., 0].long(), rows)
    assert all(len(row.unique()) == 7 and len((row // n).unique()) == 1 for row in rows)
    assert len((rows[:, 0] // n).unique()) == 2


def test_tasks_of_demonstrations():
    """Random steps were done; what counts is what the expert would do, on the observation before."""

    def expert(observations):
        return (observations[:, 2] > 0).astype(np.int64)

    recorded = [record_episodes(expert, "CartPole-v1", 2, seed=seed, noise=0.5) for seed in range(3)]
    pairs = [labelled_steps(one) for one in recorded]
    for one, pair in zip(recorded, pairs, strict=True):
        assert pair.x.shape == (one.steps, 4)
        assert pair.x.dtype == torch.float32
        assert torch.equal(pair.y, (pair.x[:, 2] > 0).long())
        assert np.array_equal(pair.x[0].numpy(), one[0].observations[0])
    source = Pools.from_demonstrations(recorded, shots=4, queries=5, tasks=2)
    assert source.x.shape == (3, min(one.steps for one in recorded), 4)
    batch = drawn(source)
    assert torch.equal(batch.support.y, (batch.support.x[..., 2] > 0).long())
    with pytest.raises(ValueError, match="no labelled steps"):
        Pools.from_demonstrations([], 1, 1, 1)


def test_observations_of_several_parts_are_no_tasks():
    space = spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(2)})
    with pytest.raises(ValueError, match="observations of one part"):
        labelled_steps(Demonstrations(space, spaces.Discrete(2)))


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Sinusoids(4, 3, 2, seed),
        lambda seed: Episodes(numbered(), 3, 1, 1, 2, seed),
        lambda seed: Pools(torch.arange(24.0).view(4, 6, 1), torch.zeros(4, 6), 2, 2, 2, seed),
    ],
    ids=["sinusoids", "episodes", "pools"],
)
def test_seeds_and_restored_state(make):
    source, same, other = make(1), make(1), make(2)
    for _ in range(3):
        first, second, third = drawn(source), drawn(same), drawn(other)
    assert torch.equal(first.query.x, second.query.x)
    assert not torch.equal(first.query.x, third.query.x)
    other.load_state_dict(source.state_dict())
    assert torch.equal(drawn(source).query.x, drawn(other).query.x)


def test_more_than_there_is():
    data = numbered(classes=3, each=4)
    with pytest.raises(ValueError, match=r"4 ways .* the data has 3 classes, 3 of them as large"):
        Episodes(data, ways=4, shots=1, queries=1)
    with pytest.raises(ValueError, match=r"2 classes of 5 examples; .* 0 of them as large .the largest 4 examples"):
        Episodes(data, ways=2, shots=4, queries=1)
    with pytest.raises(ValueError, match="2 ways, 1 shot and 1 query at least"):
        Episodes(data, ways=1, shots=1, queries=1)
    with pytest.raises(ValueError, match="labels of classes"):
        Episodes(Dataset(data.x), ways=2, shots=1, queries=1)
    with pytest.raises(ValueError, match=r"2 tasks with 5 shots and 4 queries cannot be drawn from 3 tasks with 8"):
        Pools(torch.zeros(3, 8, 1), torch.zeros(3, 8), shots=5, queries=4, tasks=2)
    with pytest.raises(ValueError, match=r"\(3, 8\) .* have \(3, 7\) targets"):
        Pools(torch.zeros(3, 8, 1), torch.zeros(3, 7), shots=1, queries=1, tasks=2)
    with pytest.raises(ValueError, match=r"y must be integers of shape .3, 8., each .* not -1 to 0"):
        Pools(torch.zeros(3, 8, 1), -torch.eye(3, 8).long(), shots=1, queries=1, tasks=2)


def test_classes_are_held_out_whole():
    data = dataset("digits")
    known, new = split_classes(data, 5)
    assert known.classes == ("0", "1", "2", "3", "4")
    assert new.classes == ("5", "6", "7", "8", "9")
    assert len(known) + len(new) == len(data)
    assert known.y is not None and new.y is not None and data.y is not None  # noqa: PT018
    assert int(new.y.min()) == 0
    assert torch.equal(new.x[new.y == 2], data.x[data.y == 7])
    with pytest.raises(ValueError, match="10 of 10 classes cannot be held out"):
        split_classes(data, 10)


def test_glyphs_are_drawn_alike_within_a_class_only():
    data = draw_glyphs(classes=30, per_class=6)
    assert data.x.shape == (180, 1, 16, 16)
    assert data.y is not None
    assert float(data.x.min()) >= 0.0
    assert float(data.x.max()) <= 1.0
    assert torch.equal(data.x, draw_glyphs(classes=30, per_class=6).x)
    assert not torch.equal(data.x, draw_glyphs(classes=30, per_class=6, seed=1).x)
    distance = torch.cdist(data.x.flatten(1), data.x.flatten(1))
    same = (data.y[:, None] == data.y) & ~torch.eye(len(data), dtype=torch.bool)
    between = distance[data.y[:, None] != data.y].mean()
    assert float(distance[same].mean()) < 0.95 * float(between)
    with pytest.raises(ValueError, match="classes must be a whole number from 1, not 0"):
        draw_glyphs(classes=0)
