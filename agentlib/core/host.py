"""Settings of the host program, changed for a while and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Run the body with `count` torch threads (None: as many as torch has now), then restore the number.

    Yields:
        The number of threads in the body.

    Raises:
        ValueError: if `count` is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, this thread has torch as a fresh program has it: gradients, no inference mode, no autocast, the CPU.

    The default dtype is not among them: it belongs to all threads of the host, and so our own code names its dtypes.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Restore the global random states of Python, numpy and torch, and cuDNN's flags: SB3 seeds and sets them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - not ours
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        cudnn.deterministic, cudnn.benchmark = flags
