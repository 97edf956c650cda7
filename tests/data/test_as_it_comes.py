"""Data as people have it: arrays, torch's data sets, lists of pictures, folders of images of several sizes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

import agentlib
from agentlib.data import dataset, load
from agentlib.shell.main import main

X = np.random.default_rng(0).random((20, 3)).astype(np.float32)
Y = np.arange(20) % 2


class Items(TorchDataset):
    """A map-style data set, as a user writes it."""

    def __init__(self, items, classes=()):
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, row):
        return self.items[row]


def tensors(*arrays):
    return TensorDataset(*map(torch.from_numpy, arrays))


PAIRS = [(torch.from_numpy(x), int(y)) for x, y in zip(X, Y, strict=True)]


@pytest.mark.parametrize(
    ("data", "is_labelled"),
    [
        ((X, Y), True),
        (X, False),
        (torch.from_numpy(X), False),
        (tensors(X), False),
        (tensors(X, Y), True),
        (Items(PAIRS), True),
        (Items(list(X)), False),
        (Subset(Items(PAIRS), range(20)), True),
        (PAIRS, True),
        (list(X), False),
        (X.tolist(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_forms_of_the_same_examples(data, is_labelled):
    found = dataset(data)
    np.testing.assert_array_equal(found.x.numpy(), X)
    if is_labelled:
        assert found.y is not None
        assert found.y.tolist() == Y.tolist()
        assert found.classes == ("0", "1")
    else:
        assert found.y is None


def test_class_names_of_a_data_set_are_kept():
    found = dataset(Items(PAIRS, classes=["cat", "dog"]))
    assert found.classes == ("cat", "dog")
    assert found.y is not None
    assert found.y.tolist() == Y.tolist()


@pytest.mark.parametrize("data", [(X, Y), Items(PAIRS), tensors(X, Y)], ids=["arrays", "items", "tensors"])
def test_a_run_takes_them(data):
    result: Any = agentlib.train("classifier", data=data, steps=2, progress=False)
    assert result.measures["test/accuracy"] >= 0.0


@pytest.mark.parametrize("data", [X, Items(list(X)), tensors(X)], ids=["array", "items", "tensors"])
def test_unlabelled_data(data, tmp_path):
    settings: Any = {"batch_size": 8, "net_arch": (8,), "progress": False}
    result: Any = agentlib.train("vae", data=data, steps=2, latent_dim=2, out=tmp_path / "run", **settings)
    assert result.model.sample(4).shape == (4, 3)
    again: Any = agentlib.train(resume=tmp_path / "run", data=data, progress=False)
    assert again.model.sample(4).shape == (4, 3)
    with pytest.raises(ValueError, match="these examples have no labels"):
        agentlib.train("classifier", data=data, steps=2, progress=False)


class Endless(IterableDataset):
    def __iter__(self):
        yield from X


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the data is empty"),
        ([X, Y], r"example 0 has the shape \(20, 3\), example 1 \(20,\); a pair of arrays is a tuple, data=\(x, y\)"),
        ([(X[0], 1, 2)], r"each example is x or a pair \(x, y\)"),
        (Endless(), r"a map-style Dataset of torch.*, not Endless"),
    ],
)
def test_what_is_no_data(data, message):
    with pytest.raises(ValueError, match=message):
        dataset(data)


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of two sizes for each of two classes."""
    image = pytest.importorskip("PIL.Image")
    for label, shade in (("dark", 20), ("light", 220)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(10):
            side = 6 if number % 2 else 9
            picture = image.fromarray(np.full((side, side + 1), shade + number, np.uint8))
            picture.save(tmp_path / "images" / label / f"{number}.png")
    return tmp_path / "images"


def test_images_of_several_sizes_on_the_command_line(pictures, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = ["train", "classifier", "--data", "images", "--steps", "2", "--progress", "none", "--out", "run"]
    assert main(flags) == 1
    assert "--image-size HEIGHTxWIDTH" in capsys.readouterr().err
    assert main([*flags, "--image-size", "8x4"]) == 0
    assert agentlib.Agent.load("run").observation_space.shape == (1, 8, 4)
    assert main(["train", "--resume", "run", "--steps", "4", "--progress", "none"]) == 0  # the folder knows the size
    assert dataset(f"{pictures}#8").x.shape == (20, 1, 8, 8)
    with pytest.raises(ValueError, match=r"the size of images is SIDE or HEIGHTxWIDTH, .* not '8by8'"):
        load(f"{pictures}#8by8")


def test_lists_of_pictures(pictures):
    image = pytest.importorskip("PIL.Image")
    files = sorted(pictures.glob("*/[02468].png"))
    opened = [image.open(file) for file in files]
    by_file, by_picture, by_array = dataset(files), dataset(opened), dataset([np.asarray(one) for one in opened])
    labelled = dataset([(one, file.parent.name) for one, file in zip(opened, files, strict=True)])
    for found in (by_file, by_picture, by_array, labelled):
        assert found.x.shape == (10, 1, 9, 10)
        torch.testing.assert_close(found.x, by_file.x)
    assert labelled.classes == ("dark", "light")
    assert float(by_file.x[0, 0, 0, 0]) == pytest.approx(20 / 255)
    with pytest.raises(ValueError, match=r"images of 2 sizes: picture \d is 9x10, picture \d is 6x7"):
        dataset([image.open(file) for file in sorted((pictures / "dark").iterdir())])


def test_a_folder_of_images_without_classes_is_unlabelled(pictures):
    found = load(f"{pictures / 'dark'}#5")
    assert isinstance(found, agentlib.data.Dataset)
    assert found.x.shape == (10, 1, 5, 5)
    assert found.y is None
    (pictures.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="has no subfolders, one for each class, and no images either"):
        load(pictures.parent / "empty")


def test_names_of_the_package():
    names = ["Agent", "Comparison", "Evaluation", "Recipe", "Result", "Sweep"]
    names += ["__version__", "compare", "evaluate", "sweep", "train"]
    assert dir(agentlib) == names
    assert all(hasattr(agentlib, name) for name in names)
    assert not {"Any", "TYPE_CHECKING", "import_module", "annotations"} & {*dir(agentlib.core), *dir(agentlib.learners)}
    assert {"Learner", "Step"} <= set(dir(agentlib.core))
    import pydoc

    text = pydoc.plain(pydoc.render_doc(agentlib))
    assert "class Agent(" in text
    assert "train(" in text
