"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OPEN: set[int] = set()
"""The files of the locks that this process holds."""


def _leave() -> None:
    """In a forked process: the locks are its parent's, and would outlive it in an open file."""
    while _OPEN:
        os.close(_OPEN.pop())


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_leave)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run is at work in the folder, which is made if need be.

    The system keeps the lock, and ends it with the process, however that comes: that the file is there says nothing.
    Where the file system knows no locks, nobody is kept out.

    Raises:
        ValueError: another run is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A link is not followed: its target would be overwritten.
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    _OPEN.add(file)
    try:
        try:
            _take(file)
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            os.lseek(file, 0, os.SEEK_SET)
            holder = os.read(file, 20).decode("ascii", "replace").strip()
            holder = holder if holder.isdecimal() else "unknown"
            raise ValueError(
                f"another run is at work in {folder} (process {holder}): wait for it, stop it, or choose another folder"
            ) from None
        except OSError:
            pass
        yield
    finally:
        if file in _OPEN:  # not in a process that was forked inside
            _OPEN.remove(file)
            _release(file)
            os.close(file)


def _take(file: int) -> None:
    """Raises BlockingIOError where another has the lock, OSError where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows: its locks are of bytes; one that nobody writes
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except PermissionError as error:
            raise BlockingIOError from error
        os.lseek(file, 0, os.SEEK_SET)
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(file: int) -> None:
    """Closing is not enough where another process has the file open, too: one that was forked by other than Python."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
