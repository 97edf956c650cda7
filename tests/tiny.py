"""Runs of seconds, for the tests of what is around the algorithms."""

from typing import Any

import numpy as np
import torch

import agentlib

IDENTITY = "agentlib/Identity-v0"
SETTINGS: dict[str, Any] = {"net_arch": (16,), "buffer_size": 1000, "learning_starts": 20, "batch_size": 16}
FLAGS = ["--net-arch", "16", "--buffer-size", "1000", "--learning-starts", "20", "--batch-size", "16"]
FLAGS += ["--progress", "none"]


def tiny_run(what="dqn", *, env=IDENTITY, steps=200, **changes):
    """`agentlib.train` with little to do."""
    settings = {**(SETTINGS if isinstance(what, str) else {}), **changes}
    return agentlib.train(what, env=env, steps=steps, progress=False, compile=False, **settings)


def host_generators():
    """The state of the host's generators, as two arrays."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return np.array(state[1]), torch.get_rng_state().numpy()
