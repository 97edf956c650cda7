"""Memory that a process of our own keeps, which large activations ask of the system again at each update otherwise.

glibc returns freed pieces of more than 128 kB, and the system clears each page of 4 kB when it is touched again: with
images of MNIST in batches of 128 that is more than half of an update. A program that imports agentlib keeps its own
allocator as it is; docs/performance.md says what it can set.
"""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of `mallopt`, in glibc's malloc.h."""
LARGEST = 32 << 20
"""The most that glibc takes from its heap by this setting; larger pieces go back to the system."""


def keep_memory() -> None:
    """glibc keeps freed pieces of up to 32 MB, and torch asks for large pages; nothing happens where there is no glibc.

    Variables of the environment that say something else (`MALLOC_..._`, `GLIBC_TUNABLES`, `THP_MEM_ALLOC_ENABLE`) hold.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return
    mallopt(MMAP_THRESHOLD, LARGEST)
    mallopt(TRIM_THRESHOLD, -1)
