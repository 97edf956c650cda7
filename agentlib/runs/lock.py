"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run is at work in the folder, which is made if need be.

    The system keeps the lock, and ends it with the process, however that comes: that the file is there says nothing.
    Where the file system knows no locks, nobody is kept out.

    Raises:
        ValueError: another run is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="ascii") as file:
        try:
            _take(file)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"another run is at work in {folder} (process {holder}): wait for it, stop it, or choose another folder"
            ) from None
        except OSError:
            pass
        yield


def _take(file: IO[str]) -> None:
    """Raises BlockingIOError where another has the lock, OSError where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows: its locks are of bytes; one that nobody writes
        import msvcrt

        file.seek(1 << 20)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except PermissionError as error:
            raise BlockingIOError from error
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
