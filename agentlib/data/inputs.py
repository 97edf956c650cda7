"""Examples to predict for: images, tables without targets, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentlib.data.files import IMAGE_SUFFIXES, from_arrays, load_pictures
from agentlib.data.loading import dataset

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""


def inputs(source: str | Path, shape: tuple[int, ...] | None = None) -> tuple[list[str], NDArray[Any]]:
    """The names `(N,)` of examples, and these, `(N, ...)`.

    Args:
        source: an image, a folder of images or one with a folder for each class, arrays (.npz or .npy), a table, or the
            name of a data set. The column to predict may be in a table or not.
        shape: of one example, as far as it is known; images are scaled to it, and become grey or colour images.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the examples have another shape, or what `agentlib.data.parts` raises.
    """
    path = Path(source)
    files = [path] if path.suffix.lower() in IMAGE_SUFFIXES else _images(path, "*") or _images(path, "*/*")
    if files:
        if not files[0].is_file():
            raise FileNotFoundError(f"no file {files[0]}")
        size = (shape[1], shape[2]) if shape is not None and len(shape) == 3 else None
        folder = path if path.is_dir() else path.parent
        names, x = [file.relative_to(folder).as_posix() for file in files], load_pictures(files, size).x
        if shape is not None and len(shape) == 3 and shape[0] != x.shape[1]:
            x = x.expand(-1, shape[0], -1, -1) if x.shape[1] == 1 else _grey(x)
    else:
        if path.suffix.lower() == ".npy":
            data = from_arrays(np.load(path, allow_pickle=False))
        else:
            data = dataset(source)
        x = data.x
        if shape is not None and data.y is not None and (*x.shape[1:-1], x.shape[-1] + 1) == shape:
            x = torch.cat([x, data.y[:, None].float()], 1)  # the last column was no target
        names = [f"example {row}" for row in range(len(x))]
    if shape is not None and tuple(x.shape[1:]) != shape:
        raise ValueError(f"the model takes examples of shape {shape}, and those of {source} have {tuple(x.shape[1:])}")
    return names, x.numpy()


def _images(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES)


def _grey(x: torch.Tensor) -> torch.Tensor:
    """Colour images `(N, 3, H, W)` as grey ones `(N, 1, H, W)`."""
    return (x * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
