"""One run at a time in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


class Lock:
    """Held from here on, until `release` or the end of the process, however that comes: the system keeps it.

    The file stays where it is; that it is there says nothing. Where the file system knows no locks, nobody is kept out.

    Args:
        folder: of the run; made if need be.

    Raises:
        ValueError: another run is at work in the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / ".lock", "a+", encoding="ascii")  # noqa: SIM115 - open as long as the run goes
        try:
            _take(self._file)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise ValueError(
                f"another run is at work in {folder} (process {holder or 'unknown'}): wait for it, stop it, or choose "
                "another folder"
            ) from None
        except OSError:
            return
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets others in."""
        self._file.close()


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
