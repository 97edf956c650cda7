"""How a command ends before its time: wrong usage, and signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UsageError(Exception):
    """The command line asks for something that cannot be."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; a run stops for it as it does for Ctrl-C."""


@contextmanager
def saving_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is as good as Ctrl-C. Only a program's main thread may handle signals."""

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
