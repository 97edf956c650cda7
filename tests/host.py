"""What a host program has set, and must find again after it used agentlib."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch


def host_state() -> dict[str, Any]:
    """All that belongs to the whole process, in comparable form."""
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return {
        "random": random.getstate(),
        "numpy": (numbers[0], numbers[1].tolist(), *numbers[2:]),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "float errors": np.geterr(),
        "print options": np.get_printoptions(),
        "warnings": [str(entry) for entry in warnings.filters],
        "showwarning": repr(warnings.showwarning),
        "root logger": (logging.root.level, list(map(repr, logging.root.handlers)), logging.root.disabled),
        "loggers": {
            name: (logger.level, len(logger.handlers), logger.propagate)
            for name, logger in logging.root.manager.loggerDict.items()
            if isinstance(logger, logging.Logger)
        },
        "signals": {number: repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "backend": backend(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "streams": [repr(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "hooks": [repr(hook) for hook in (sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook)],
        "threads alive": sorted(thread.name for thread in threading.enumerate()),
        "recursion": sys.getrecursionlimit(),
    }


def backend() -> str | None:
    """Matplotlib's, if it is there at all; what is not resolved yet stays so."""
    if "matplotlib" not in sys.modules:
        return None
    import matplotlib

    return repr(dict.__getitem__(matplotlib.rcParams, "backend"))


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was; loggers that came with a library's import do not count."""
    found = [name for name in before if name not in ("loggers", "backend") and before[name] != after[name]]
    found += [
        f"logger {name}" for name, logger in before["loggers"].items() if after["loggers"].get(name, logger) != logger
    ]
    if before["backend"] is not None and before["backend"] != after["backend"]:
        found.append("backend")
    return found
