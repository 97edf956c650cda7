"""Real files in small: each is written, read, and compared number by number."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agentlib.data import Dataset, Splits, dataset, from_arrays, from_hugging_face, load, load_images, parts
from agentlib.data.files import load_pictures

Image = pytest.importorskip("PIL.Image")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def save_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def picture(seed, shape=(4, 5)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["height,age,kind\n", ""])
def test_a_table_with_classes(tmp_path, delimiter, header):
    text = (header + "1.5,2,dog\n-3e2,4,cat\n\n0,6,dog\n").replace(",", delimiter)
    data = load(write(tmp_path / "table.csv", text))
    assert isinstance(data, Dataset)
    assert torch.equal(data.x, torch.tensor([[1.5, 2.0], [-300.0, 4.0], [0.0, 6.0]]))
    assert data.classes == ("cat", "dog")
    assert data.targets.tolist() == [1, 0, 1]


def test_a_table_with_numbers_and_a_named_column(tmp_path):
    path = write(tmp_path / "table.csv", "price,area\n10,1\n20,2\n25,3\n")
    data = dataset(f"{path}#price")
    assert data.x.tolist() == [[1.0], [2.0], [3.0]]
    assert data.targets.tolist() == [10.0, 20.0, 25.0]
    assert data.classes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,3\n4,,6\n7,NaN,9\n", r"row 3, column 'b': no value \(and 1 more\); fill it in"),
        ("a,b,y\n1,2,3\n4,5,?\n", "row 3, column 'y': no value"),
        ("a,b,y\n1,red,3\n", "row 2, column 'b': 'red' is no number; only the column to predict"),
        ("a,b,y\n1,inf,3\n", "row 2, column 'b': 'inf' is no number"),
        ("a,b,y\n1,2,3\n4,5\n", "row 3: 2 values, but there are 3 columns"),
        ("a,b,y\n", "names of columns, and no examples"),
        ("", "is empty"),
    ],
)
def test_a_table_that_cannot_be_learned_from(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "table.csv", text))


def test_an_unknown_column(tmp_path):
    path = write(tmp_path / "table.csv", "a,y\n1,2\n")
    with pytest.raises(ValueError, match="no column 'z'; it has a, y"):
        load(f"{path}#z")


# Arrays


def test_arrays_of_images_and_labels(tmp_path):
    images = picture(0, (6, 4, 5, 3))
    np.savez(tmp_path / "a.npz", x=images, y=np.array([3, 7, 3, 7, 9, 9]))
    data = dataset(tmp_path / "a.npz")
    assert data.x.shape == (6, 3, 4, 5)
    assert torch.equal(data.x, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert data.classes == ("3", "7", "9")
    assert data.targets.tolist() == [0, 1, 0, 1, 2, 2]


def test_grey_images_numbers_and_names():
    grey = picture(1, (6, 4, 5))
    assert from_arrays(grey).x.shape == (6, 1, 4, 5)
    assert from_arrays(grey.astype(np.float64)).x.shape == (6, 4, 5)  # no image, and taken as it is
    numbers = from_arrays(grey, np.linspace(0, 1, 6)[:, None])
    assert numbers.targets.dtype == torch.float32
    assert numbers.targets.shape == (6,)
    named = from_arrays(grey, np.array([0, 1, 1, 0, 0, 1]), ("no", "yes"))
    assert named.classes == ("no", "yes")
    with pytest.raises(ValueError, match="each of the 2 classes 0 to 1, not 0 to 2"):
        from_arrays(grey, np.array([0, 1, 2, 0, 0, 1]), ("no", "yes"))
    with pytest.raises(ValueError, match="label 'maybe' is none of the classes no, yes"):
        from_arrays(grey, np.array(["no", "maybe"] * 3), ("no", "yes"))


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_what_numpy_makes_arrays_of(kind):
    found = from_arrays(kind([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), kind([1, 0, 1]))
    assert found.x.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert (found.targets.tolist(), found.classes) == ([1, 0, 1], ("0", "1"))
    for of_type in (int, float):
        one_hot = np.eye(2, dtype=of_type)[[1, 0, 1]]
        with pytest.raises(ValueError, match=r"shape \(3, 2\).*y.argmax\(1\)"):
            parts((kind([[0.0], [2.0], [4.0]]), one_hot), predict="classes")


def test_arrays_in_parts(tmp_path):
    x, y = np.arange(40, dtype=np.float32)[:, None], np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    split = parts(tmp_path / "a.npz", seed=1, validation=0.2)
    assert split.test.x[:, 0].tolist() == list(range(30, 40))
    assert len(split.validation) == 6
    assert sorted(torch.cat([split.train.x, split.validation.x])[:, 0].tolist()) == list(range(30))
    with pytest.raises(ValueError, match="comes in parts"):
        dataset(tmp_path / "a.npz")


def test_arrays_that_are_not_there(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros(3))
    with pytest.raises(ValueError, match=r"needs arrays x and y.*it has image"):
        load(tmp_path / "a.npz")


# Folders of images


def test_a_folder_for_each_class(tmp_path):
    for name, seed in (("cat/1.png", 1), ("cat/2.bmp", 2), ("dog/1.png", 3)):
        save_image(tmp_path / name, picture(seed))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    data = dataset(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.targets.tolist() == [0, 0, 1]
    for row, seed in enumerate((1, 2, 3)):
        assert torch.equal(data.x[row, 0], torch.from_numpy(picture(seed)).float() / 255)


def test_grey_and_colour_images(tmp_path):
    save_image(tmp_path / "a" / "grey.png", picture(1))
    save_image(tmp_path / "b" / "colour.png", picture(2, (4, 5, 3)))
    data = dataset(tmp_path)
    assert data.x.shape == (2, 3, 4, 5)
    assert torch.equal(data.x[0, 0], data.x[0, 2])
    assert torch.equal(data.x[1], torch.from_numpy(picture(2, (4, 5, 3))).permute(2, 0, 1).float() / 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_are_turned_as_their_exif_data_says(tmp_path, orientation, suffix):
    """How cameras note that they were held upright: 1 is as stored, 6 is to be turned a quarter to the right ..."""
    stored = (50 * np.arange(4)[:, None] + 10 * np.arange(5)).astype(np.uint8)
    seen = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T, 6: stored[::-1].T,
            7: stored[::-1, ::-1].T, 8: stored.T[::-1]}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    Image.fromarray(stored).save(tmp_path / "a" / f"1.{suffix}", exif=exif, quality=100)
    found = dataset(tmp_path).x[0, 0] * 255
    torch.testing.assert_close(found, torch.from_numpy(seen.astype(np.float32)), rtol=0.0, atol=4.0)


@pytest.mark.parametrize(
    ("mode", "colours", "options", "seen"),
    [
        ("RGBA", [(7, 7, 7, 255), (7, 7, 7, 0), (7, 7, 7, 128)], {}, [7, 255, 131]),
        ("LA", [(7, 255), (7, 0), (7, 128)], {}, [7, 255, 131]),
        ("RGB", [(7, 7, 7), (9, 9, 9), (9, 9, 9)], {"transparency": (9, 9, 9)}, [7, 255, 255]),
        ("L", [7, 9, 9], {"transparency": 9}, [7, 255, 255]),
        ("P", [0, 1, 1], {"transparency": 1}, [7, 255, 255]),
    ],
)
def test_transparent_parts_of_pictures_are_white(tmp_path, mode, colours, options, seen):
    """Under them stands any colour, which no viewer shows."""
    image = Image.new(mode, (3, 1))
    if mode == "P":
        image.putpalette([7, 7, 7, 9, 9, 9])
    for column, colour in enumerate(colours):
        image.putpixel((column, 0), colour)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", **options)
    x = dataset(tmp_path).x[0]
    assert len(x) == (1 if mode in ("L", "LA") else 3)
    for channel in x * 255:
        assert channel[0].tolist() == pytest.approx(seen, abs=1.0)


def sixteen_bits(kind, numbers, transparent=None):
    """A PNG file with 16 bits of each number: grey (kind 0), colours (2), or these with alpha (4, 6)."""
    numbers = np.array(numbers).reshape(1, -1, {0: 1, 2: 3, 4: 2, 6: 4}[kind])
    head = struct.pack(">IIBBBBB", numbers.shape[1], 1, 16, kind, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" + numbers.astype(">u2").tobytes())), (b"IEND", b"")]
    if transparent is not None:
        parts.insert(1, (b"tRNS", np.array(transparent, ">u2").tobytes()))
    checked = [(len(text), name + text, zlib.crc32(name + text)) for name, text in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", n) + text + struct.pack(">I", c) for n, text, c in checked)


@pytest.mark.parametrize(
    ("kind", "numbers", "transparent", "seen"),
    [
        (0, [0, 257, 32_768, 65_535], None, [0, 1, 128, 255]),
        (0, [0, 257, 32_768, 65_535], [257], [0, 255, 128, 255]),
        (2, [[65_535, 0, 32_768], [257, 514, 0]], None, [[255, 0, 128], [1, 2, 0]]),
        (2, [[65_535, 0, 32_768], [257, 514, 0]], [257, 514, 0], [[255, 0, 128], [255, 255, 255]]),
        (4, [[30_000, 65_535], [30_000, 0]], None, [[117] * 3, [255] * 3]),
        (6, [[65_535, 0, 257, 65_535], [0, 0, 0, 0], [0, 0, 0, 32_768]], None, [[255, 0, 1], [255] * 3, [127] * 3]),
    ],
)
def test_pictures_of_16_bits_are_scaled_to_8(tmp_path, kind, numbers, transparent, seen):
    file = tmp_path / "1.png"
    file.write_bytes(sixteen_bits(kind, numbers, transparent))
    x = load_pictures([file]).x[0] * 255  # (C, 1, W)
    assert x.shape == ((1, 1, 4) if kind == 0 else (3, 1, len(numbers)))
    expected = np.array(seen, np.float32).reshape(x.shape[2], -1).T
    torch.testing.assert_close(x[:, 0], torch.from_numpy(expected), rtol=0.0, atol=1.0)
    torch.testing.assert_close(load_pictures([Image.open(file)]).x[0] * 255, x)


def test_grey_values_without_a_white_are_refused(tmp_path):
    for numbers in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70_000, np.int32)):
        Image.fromarray(numbers).save(tmp_path / "1.tif")
        with pytest.raises(
            ValueError, match=r"1.tif is no image that can be read: pixels of .* are not of 8 or 16 bits"
        ):
            load_pictures([tmp_path / "1.tif"])


def test_images_in_parts(tmp_path):
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            for i in range(8):
                save_image(tmp_path / part / kind / f"{i}.png", picture(i))
    split = parts(tmp_path)
    assert [len(part) for part in split] == [14, 2, 16]
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(ValueError, match="different classes: train: cat, dog; test: cat, wolf"):
        parts(tmp_path)


def test_images_of_several_sizes(tmp_path):
    save_image(tmp_path / "a" / "1.png", picture(1))
    save_image(tmp_path / "a" / "2.png", picture(1, (6, 7)))
    with pytest.raises(ValueError, match=r"2 sizes: .*1.png is 4x5, .*2.png is 6x7.*size=\(height, width\)"):
        load(tmp_path)
    scaled = load_images(tmp_path, size=(3, 2))
    assert isinstance(scaled, Dataset)
    assert scaled.x.shape == (2, 1, 3, 2)


def test_folders_that_cannot_be_learned_from(tmp_path):
    with pytest.raises(ValueError, match="has no subfolders"):
        load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="class 'cat' has no images"):
        load(tmp_path)
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1.png is no image that can be read"):
        load(tmp_path)


# Hugging Face


class FakeDataset:
    """The part of `datasets.Dataset` that is used, for where it is not installed."""

    def __init__(self, features: dict[str, Any], columns: dict[str, Any]) -> None:
        self.features, self.columns = features, columns

    def with_format(self, kind: str | None) -> "FakeDataset":
        assert kind in ("numpy", None)
        return self

    def __getitem__(self, rows: slice) -> dict[str, Any]:
        return {name: column[rows] for name, column in self.columns.items()}


def feature(kind, **attributes):
    return type(kind, (SimpleNamespace,), {})(**attributes)


def test_the_interface_of_hugging_face():
    features = {"img": feature("Image"), "label": feature("ClassLabel", names=["no", "yes"], dtype="int64")}
    images, labels = picture(3, (4, 6, 7)), np.array([0, 1, 1, 0])
    data = from_hugging_face(FakeDataset(features, {"img": images, "label": labels}))
    assert isinstance(data, Dataset)
    assert data.classes == ("no", "yes")
    assert data.x.shape == (4, 1, 6, 7)
    numbers = {"a": feature("Value", dtype="float32"), "b": feature("Value", dtype="int64"),
               "text": feature("Value", dtype="string"), "y": feature("Value", dtype="float64")}  # fmt: skip
    columns = {"a": np.arange(3.0), "b": np.arange(3), "text": np.array(["u", "v", "w"]), "y": np.ones(3)}
    table = from_hugging_face(FakeDataset(numbers, columns))
    assert isinstance(table, Dataset)
    assert table.x.tolist() == [[0, 0], [1, 1], [2, 2]]
    both = from_hugging_face({"train": FakeDataset(numbers, columns), "test": FakeDataset(numbers, columns)})
    assert isinstance(both, dict)
    assert set(both) == {"train", "test"}
    with pytest.raises(ValueError, match=r"no column 'z'; it has a \(Value\)"):
        from_hugging_face(FakeDataset(numbers, columns), x="z")


@pytest.mark.slow
def test_hugging_face_itself(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(picture(i)) for i in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    made = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 10}, features=features)
    data = dataset(made)
    assert torch.equal(data.x[3, 0], torch.from_numpy(picture(3)).float() / 255)
    assert data.classes == ("no", "yes")
    assert data.targets.tolist() == [0, 1] * 10
    made.save_to_disk(tmp_path / "whole")
    assert torch.equal(dataset(str(tmp_path / "whole")).x, data.x)
    datasets.DatasetDict(made.train_test_split(0.4, seed=0)).save_to_disk(tmp_path / "parts")
    split = parts(tmp_path / "parts")
    assert len(split.test) == 8
    assert len(split.train) + len(split.validation) == 12
    clear = Image.new("RGBA", (4, 5), (7, 7, 7, 0))
    hidden = dataset(datasets.Dataset.from_dict({"image": [clear] * 2, "label": [0, 1]}, features=features))
    assert torch.equal(hidden.x, torch.ones(2, 3, 5, 4)), "what a viewer shows is white"
    deep = Image.fromarray(np.array([[1000, 2000]], np.uint16))
    assert dataset(datasets.Dataset.from_dict({"image": [deep], "label": [1]}, features=features)).x.max() == 2000
    table = datasets.Dataset.from_dict({"a": [1.0, 2.0], "b": [[3, 4], [5, 6]], "target": [0.5, 1.5]})
    numbers = dataset(table)
    assert numbers.x.tolist() == [[1, 3, 4], [2, 5, 6]]
    assert numbers.targets.tolist() == [0.5, 1.5]


# All kinds


def test_what_is_no_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        dataset(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"is of no kind that is known: .csv"):
        dataset(write(tmp_path / "data.xyz", ""))
    with pytest.raises(ValueError, match=r"a Dataset or a pair of arrays .*, not int"):
        parts(3)


def test_classes_and_numbers():
    x = torch.zeros(4, 1)
    whole = Dataset(x, torch.tensor([5.0, 3.0, 3.0, 5.0]))
    assert whole.with_classes().classes == ("3", "5")
    assert whole.with_classes().targets.tolist() == [1, 0, 0, 1]
    assert whole.with_classes().with_numbers().targets.tolist() == [5, 3, 3, 5]
    with pytest.raises(ValueError, match="a regressor learns such"):
        Dataset(x, torch.tensor([0.5, 1.0, 2.0, 3.0])).with_classes()
    with pytest.raises(ValueError, match="not the classes a, b: a classifier learns such"):
        Dataset(x, torch.tensor([0, 1, 1, 0]), ("a", "b")).with_numbers()
    with pytest.raises(ValueError, match="have no labels"):
        Dataset(x).with_classes()


def test_parts_that_differ():
    first = Dataset(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]), ("a", "b"))
    other = Dataset(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]), ("a", "c"))
    assert parts(Splits(first, first, first)).train is first
    with pytest.raises(ValueError, match="differ in their classes or shapes: train: a, b"):
        parts({"train": first, "test": other})


def test_an_empty_class():
    with pytest.raises(ValueError, match="class 'c' has 0 examples, too few"):
        parts(Dataset(torch.zeros(20, 1), torch.arange(20) % 2, ("a", "b", "c")))


def test_paths_are_paths():
    assert isinstance(dataset("digits"), Dataset)
    with pytest.raises(FileNotFoundError):
        dataset(str(Path("somewhere") / "digits"))


@pytest.mark.parametrize("names", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels",
                                   "train_data train_targets test_data test_targets"])  # fmt: skip
def test_arrays_are_named_as_keras_or_torchvision_name_them(tmp_path, names):
    x, y = np.arange(120, dtype=np.uint8).reshape(30, 2, 2), np.arange(30) % 2
    np.savez(tmp_path / "a.npz", **dict(zip(names.split(), (x[:20], y[:20], x[20:], y[20:]), strict=True)))
    found = parts(tmp_path / "a.npz", validation=0.2)
    assert found.test.x.shape == (10, 1, 2, 2)
    assert found.test.x.flatten()[0] == pytest.approx(80 / 255)
    assert found.test.targets.tolist() == y[20:].tolist()


def test_x_and_y_count_before_other_names_of_arrays(tmp_path):
    x, y, names = np.arange(12.0).reshape(6, 2), np.arange(6) % 2, np.array(["a", "b", "a", "b", "a", "b"])
    np.savez(tmp_path / "a.npz", x=x, y=y, labels=names[::-1], data=-x)
    found = dataset(tmp_path / "a.npz")
    assert found.x.tolist() == x.tolist()
    assert found.targets.tolist() == y.tolist()
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], data=np.zeros(3))
    assert len(parts(tmp_path / "b.npz", validation=0.5).test) == 2
    np.savez(tmp_path / "c.npz", data=x, images=x, y=y)
    with pytest.raises(ValueError, match="more than one array for x: data, images; rename all but one"):
        load(tmp_path / "c.npz")


@pytest.mark.slow
def test_a_name_of_the_hub_is_loaded_by_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = "\n".join(f"{i},{-i},{i % 2}" for i in range(20))
    for name in ("name", "empty"):
        (tmp_path / "owner" / name).mkdir(parents=True)
    for part in ("train", "test"):
        (tmp_path / "owner" / "name" / f"{part}.csv").write_text(f"a,b,label\n{rows}\n")
    monkeypatch.chdir(tmp_path)
    found = parts("hf:owner/name", validation=0.2)
    assert (len(found.test), found.test.x[3].tolist(), int(found.test.targets[3])) == (20, [3.0, -3.0], 1)
    with pytest.raises(ValueError, match="hf:owner/empty cannot be loaded"):
        parts("hf:owner/empty")
