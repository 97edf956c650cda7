"""Progress of what takes long beside the updates of a run: evaluating, sampling, judging and drawing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

Item = TypeVar("Item")
Show = Callable[[Iterable[Any], str], Iterable[Any]]

SECONDS_BEFORE = 2.0
"""What is over sooner shows nothing."""
SECONDS_BETWEEN = 5.0
"""Between two lines where there is no terminal."""

USUAL_SIZE = {"ncols": 100, "nrows": 24}

_show: ContextVar[Show | None] = ContextVar("show", default=None)


def watched(items: Iterable[Item], name: str) -> Iterable[Item]:
    """The items as they are, shown with an estimate while they are gone through, where somebody asked for it."""
    show = _show.get()
    return items if show is None else show(items, name)


@contextmanager
def showing(progress: bool | Literal["table"]) -> Iterator[None]:
    """Inside, long work shows a bar (True), a line every few seconds ("table"), or nothing (False)."""
    stream = sys.stderr if progress is True else sys.stdout  # a service may have no streams at all
    before = _show.set({True: _bar, "table": _lines}.get(progress) if progress and stream is not None else None)
    try:
        yield
    finally:
        _show.reset(before)


def bar_size() -> dict[str, Any]:
    """Arguments of tqdm: the terminal's size, also while that changes; for one that says 0, the usual size."""
    try:
        is_known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):  # no terminal
        is_known = True
    return {"dynamic_ncols": True} if is_known else USUAL_SIZE


def _bar(items: Iterable[Item], name: str) -> Iterator[Item]:
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else SECONDS_BETWEEN  # a file keeps every refresh
    common: Any = {"leave": False, "delay": SECONDS_BEFORE, "mininterval": interval, **bar_size()}
    for item in tqdm(items, desc=name, **common):
        with showing(False):  # one bar at a time, that of the outermost work
            yield item


def _lines(items: Iterable[Item], name: str) -> Iterator[Item]:
    total, started = len(items) if isinstance(items, Sized) else None, time.monotonic()
    printed = started + SECONDS_BEFORE - SECONDS_BETWEEN
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - printed > SECONDS_BETWEEN:
            left = "" if total is None else f" of {total}, {(total - count) * (now - started) / count:.0f} s left"
            sys.stdout.write(f"{name}: {count}{left}\n")
            sys.stdout.flush()
            printed = now
        with showing(False):
            yield item
