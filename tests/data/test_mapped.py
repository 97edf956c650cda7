"""What is too large for memory stays on the disk, and is the same."""

import os
import subprocess
import sys
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
import torch
from PIL import Image

from agentlib.data import Dataset, dataset, mapped, parts
from agentlib.data.mapped import first_that_is_not_finite, gathered, room_for


def written(folder, count, side, colour_from=0):
    """Pictures of noise in two classes; those before `colour_from` are grey."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("odd" if number % 2 else "even")
        place.mkdir(exist_ok=True)
        shape = (side, side, 3) if number >= colour_from else (side, side)
        Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(place / f"{number:05}.bmp")
    return folder


@pytest.mark.parametrize("colour_from", [0, 11, 99])
def test_large_folders_are_the_same_from_a_file(colour_from, tmp_path, monkeypatch):
    folder = written(tmp_path, 40, 6, colour_from)
    usual, usual_parts = dataset(folder), parts(folder, seed=3)
    monkeypatch.setattr(mapped, "LARGE", 64)
    found, found_parts = dataset(folder), parts(folder, seed=3)
    assert isinstance(room_for((40, 6), np.float32), np.memmap)
    assert torch.equal(found.x, usual.x)
    assert found.x.shape[1] == (1 if colour_from == 99 else 3)
    for one, other in zip(found_parts, usual_parts, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to ask for room")
def test_room_on_the_disk_is_taken_at_once(monkeypatch):
    """A file with holes would end the process by a signal where the disk is full."""
    files = []

    def kept(**settings):
        files.append(NamedTemporaryFile(delete=False, **settings))  # noqa: SIM115 (closed by the caller)
        return files[-1]

    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr("agentlib.data.mapped.tempfile.TemporaryFile", kept)
    array = room_for((100, 1_000), np.float32)
    assert array.shape == (100, 1_000)
    assert os.stat(files[0].name).st_blocks * 512 >= 400_000
    os.unlink(files[0].name)


def test_rows_are_gathered_in_their_order(monkeypatch):
    x, rows = torch.randn(3_000, 2), torch.randperm(2_500)
    monkeypatch.setattr(mapped, "LARGE", 1)
    monkeypatch.setattr(mapped, "PIECE", 4_096)
    assert torch.equal(gathered(x, rows), x[rows])
    assert torch.equal(gathered(x[:5].long(), torch.tensor([4, 4, 0])), x[:5].long()[[4, 4, 0]])


@pytest.mark.parametrize("row", [0, 4_095, 4_096, 9_999])
def test_the_first_wrong_row_is_named(row, monkeypatch):
    monkeypatch.setattr(mapped, "PIECE", 4_096 * 8)
    x = torch.zeros(10_000, 2)
    assert first_that_is_not_finite(x) is None
    x[row, 1], x[-1, 0] = float("nan"), float("inf")
    assert first_that_is_not_finite(x) == row
    with pytest.raises(ValueError, match=f"example {row} holds NaN"):
        Dataset(x)


RUN = """
import sys
import torch
import agentlib
from agentlib.backbones import CNN
from agentlib.data import mapped

def private():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

mapped.LARGE = 1 << 20
network = CNN((3, 64, 64), ((4, 8, 8),), feature_dim=8)
agentlib.train("classifier", data=(torch.rand(100, 3, 64, 64), torch.arange(100) % 2), backbone=network, steps=2,
               compile=False, progress=False)
before, seen = private(), []
agentlib.train("classifier", data=sys.argv[1], backbone=network, steps=20, compile=False, progress=False,
               callback=lambda clock, metrics: seen.append(private()))
print(max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_folder_that_does_not_fit_takes_no_memory_of_its_own(tmp_path):
    """8,000 pictures of 48 KiB: 375 MiB, which were read, split and learned from."""
    folder = written(tmp_path, 8_000, 64)
    code = [sys.executable, "-c", RUN, str(folder)]
    grown = int(subprocess.run(code, check=True, capture_output=True, text=True).stdout.split()[-1])
    assert grown < 200 << 20  # in memory: 540 MB
