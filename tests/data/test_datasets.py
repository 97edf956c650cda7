import numpy as np
import pytest
import torch

from agentlib.core import Clock
from agentlib.data import DATASETS, Batches, Dataset, dataset, split


def numbered(n=10):
    return Dataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n) % 2, ("even", "odd"))


def drawn(source, count):
    batches = []
    for _ in range(count):
        source.advance()
        batches.append(source.sample())
    return batches


@pytest.mark.parametrize("name", DATASETS)
def test_named_data_sets(name):
    data = dataset(name)
    assert data.x.dtype == torch.float32
    if data.y is not None:
        assert len(data) == len(data.y)
        assert data.y.dtype == (torch.int64 if data.classes else torch.float32)


def test_parts_are_stratified_disjoint_and_repeatable():
    data = dataset("digits")
    whole = Dataset(torch.arange(len(data), dtype=torch.float32)[:, None], data.y, data.classes)
    parts = split(whole, seed=1)
    rows = torch.cat([part.x[:, 0] for part in parts])
    assert rows.unique().numel() == rows.numel() == len(data)
    labels = [part.y for part in parts if part.y is not None]
    shares = [np.bincount(y.numpy(), minlength=10) / len(y) for y in labels]
    assert max(np.abs(share - shares[0]).max() for share in shares) < 0.01
    assert torch.equal(split(whole, seed=1).test.x, parts.test.x)
    assert not torch.equal(split(whole, seed=2).test.x, parts.test.x)


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), ("a", "b"), "each of the 2 classes 0 to 1, not 0 to 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), ("a", "b"), "3 examples and 2 labels"),
        (torch.tensor([[0.0], [float("nan")]]), None, (), "example 1 holds NaN"),
    ],
)
def test_examples_that_do_not_fit(x, y, classes, message):
    with pytest.raises(ValueError, match=message):
        Dataset(x, y, classes)


def test_too_few_examples_of_a_class():
    with pytest.raises(ValueError, match="class 'rare' has 2 examples"):
        split(Dataset(torch.zeros(52, 1), torch.tensor([0] * 50 + [1] * 2), ("usual", "rare")))


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown data set 'digit'; close matches: digits"):
        dataset("digit")
    with pytest.raises(ValueError, match=r"a Dataset or a pair of arrays .*, not int"):
        dataset(3)


def test_each_example_once_per_epoch_in_another_order():
    batches = drawn(Batches(numbered(), batch_size=4), 10)  # 40 = 4 epochs
    rows = torch.cat([batch.index for batch in batches]).view(4, 10)
    assert all(torch.equal(row.sort().values, torch.arange(10)) for row in rows)
    assert not torch.equal(rows[0], rows[1])
    for batch in batches:
        assert torch.equal(batch.x[:, 0].long(), batch.index)
        assert torch.equal(batch.y, batch.index % 2)
        assert isinstance(batch.clock, Clock)


def test_views_and_several_batches():
    def noisy(x):
        return x + torch.rand_like(x)

    source = Batches(numbered(), 4, transform=noisy, views=2, batches_per_update=3)
    (batch,) = drawn(source, 1)
    assert batch.x.shape == (3, 2, 4, 1)
    assert batch.y.shape == batch.index.shape == (3, 4)
    assert torch.equal(batch.x[:, 0, :, 0].floor().long(), batch.index)
    assert torch.equal(batch.x[:, 1].floor(), batch.x[:, 0].floor())
    assert not torch.equal(batch.x[:, 1], batch.x[:, 0])
    with pytest.raises(ValueError, match="need a transform"):
        Batches(numbered(), 4, views=2)


def test_the_way_through_the_data_is_restored():
    source, other = Batches(numbered(), 4, seed=1), Batches(numbered(), 4, seed=2)
    drawn(source, 3)
    other.load_state_dict(source.state_dict())
    for mine, theirs in zip(drawn(source, 5), drawn(other, 5), strict=True):
        assert torch.equal(mine.index, theirs.index)


def test_no_examples():
    with pytest.raises(ValueError, match="no examples"):
        Batches(Dataset(torch.zeros(0, 1)), 4)


@pytest.mark.parametrize("labels", [torch.arange(100) // 25, torch.arange(100) % 4])
def test_a_sample_sees_every_class_of_examples_in_any_order(labels):
    data = Dataset(torch.arange(100.0)[:, None], labels, tuple("abcd"))
    few = data.sampled(20)
    assert len(few) == 20
    assert few.targets.unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(data.targets[few.x[:, 0].long()], few.targets)
    assert torch.equal(data.sampled(20).x, few.x)
    assert data.sampled(100) is data
