"""What all tests share."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from agentlib.engine import torch_private


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Tests marked `thorough` are slow, too; those marked `gpu` are skipped where there is none."""
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Updates are traced on the releases of torch alone that were tested; on others such tests are skipped."""
    try:
        return (yield)
    except Exception as error:
        if not torch_private.is_tested() and "and it was tested for" in str(error):
            pytest.skip(str(error))
        raise


def _global_state():
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the host's, only looked at
    numpy_state = (str(kind), np.asarray(keys).tolist(), *rest)
    return random.getstate(), numpy_state, torch.get_rng_state().tolist(), torch.get_num_threads()


@pytest.fixture
def globals_untouched():
    """A context that must leave the global generators and the thread count as they were."""

    @contextmanager
    def watch():
        before = _global_state()
        yield
        assert _global_state() == before

    return watch
