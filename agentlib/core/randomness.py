"""torch's default generator is the host's. Who needs it here has it for a while, alone, and gives its state back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.RLock()


def _unlock() -> None:
    """After a fork: the thread that had the lock may not be here."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_unlock)


def generator_lock() -> Any:
    """Held by each thread of ours while torch's default generator is not in the host's state."""
    return _LOCK


@contextmanager
def host_generator_kept(devices: Sequence[Any] = ()) -> Iterator[None]:
    """Inside, torch's default generators may be seeded and drawn from; the host finds them as they were.

    Args:
        devices: CUDA devices whose generators are kept, too.
    """
    with generator_lock(), torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, networks get float32 weights from this seed; the host's generator and default dtype stay as they are."""
    with host_generator_kept():
        dtype = torch.get_default_dtype()  # inside: another thread of ours may just have changed it
        torch.default_generator.manual_seed(seed)
        torch.set_default_dtype(torch.float32)  # noqa: TID251 - put back
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)  # noqa: TID251
