"""Actors as processes of Ray, on this machine or on a cluster.

Ray is started only where nobody has started it or named a cluster, and only what was started here is stopped.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentlib.core.names import one_line
from agentlib.experience.actor_worker import Parts, Worker
from agentlib.experience.actors import ActorLost

SECONDS_TO_START = 300.0
"""That an actor may take until its process answers: longer means that there is no place for it."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Ray's environment variables while it is started here: it reports no use, and hides no GPU."""

SET_BY_RAY = ("RAY_", "PYTHONBREAKPOINT")
"""How the names begin of the variables that it sets in this process; others may be set meanwhile by other threads."""


def import_ray() -> Any:
    """Ray.

    Raises:
        ImportError: it is absent; the message names the extra.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("actors need Ray: pip install 'agentlib-rl[ray]'") from error
    return ray


@contextmanager
def _host_kept() -> Iterator[None]:
    """Afterwards what Ray sets in this process is the host's again: signals, hooks, variables, filters, `random`."""
    is_main = threading.current_thread() is threading.main_thread()
    handler, hook, variables = signal.getsignal(signal.SIGTERM), sys.excepthook, dict(os.environ)
    had_faulthandler, numbers = faulthandler.is_enabled(), random.getstate()
    logger = logging.getLogger("ray")
    logs = (logger.level, list(logger.handlers), logger.propagate) if "ray" in sys.modules else None
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        if faulthandler.is_enabled() and not had_faulthandler:
            faulthandler.disable()
        sys.excepthook = hook
        random.setstate(numbers)
        if logs is not None:  # the host may have set it
            logger.setLevel(logs[0])
            logger.handlers, logger.propagate = logs[1:]
        for name in {name for name in os.environ.keys() | variables.keys() if name.startswith(SET_BY_RAY)}:
            if name in variables:
                os.environ[name] = variables[name]
            else:
                del os.environ[name]


class Session:
    """The connection to Ray, which all runs of this process share: the last one stops what the first has started."""

    lock = threading.Lock()
    users = 0
    is_ours = False

    @classmethod
    def enter(cls) -> Any:
        """Ray, connected."""
        with cls.lock, _host_kept():
            ray = import_ray()
            if not ray.is_initialized():
                os.environ.update(QUIET)
                ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False)
                cls.is_ours = True
            cls.users += 1
            return ray

    @classmethod
    def leave(cls) -> None:
        """One run less."""
        with cls.lock, _host_kept():
            cls.users -= 1
            if cls.is_ours and not cls.users:
                cls.is_ours = False
                import_ray().shutdown()


class RayFleet:
    """Actors in processes of Ray, each with one CPU.

    Args:
        count: how many.

    Raises:
        ImportError: Ray is absent.
        ValueError: the cluster has fewer CPUs.
    """

    def __init__(self, count: int) -> None:
        self.ray, self.count = Session.enter(), count
        self.is_open = True
        self.handles: list[Any] = []
        cpus = self.ray.cluster_resources().get("CPU", 0)
        if cpus < count:
            self.close()
            raise ValueError(
                f"{count} actors need {count} CPUs, and Ray has {cpus:g}: take fewer actors, or add machines"
            )

    def start(self, parts: Parts) -> None:
        try:
            self.parts = self.ray.put(parts)
        except Exception as error:  # whatever an object says that cannot be sent
            raise ValueError(f"env= cannot be sent to another process: {one_line(error)}") from error
        self.remote = self.ray.remote(num_cpus=1, max_restarts=0)(Worker)
        self.handles = [self.remote.remote(self.parts, index) for index in range(self.count)]
        for index in range(self.count):
            self._wait_for(index)

    def put(self, value: Any) -> Any:
        return self.ray.put(value)

    def call(self, index: int, method: str, *arguments: Any) -> Any:
        return getattr(self.handles[index], method).remote(*arguments)

    def result(self, ticket: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ticket)
        except errors.RayTaskError:  # the actor lives: an error of its own
            raise
        except errors.RayError as error:
            raise ActorLost(one_line(error)) from error

    def replace(self, index: int) -> None:
        self.ray.kill(self.handles[index])
        self.handles[index] = self.remote.remote(self.parts, index)
        self._wait_for(index)

    def _wait_for(self, index: int) -> None:
        """Waits until an actor's process answers.

        Raises:
            RuntimeError: it does not; the message says why.
        """
        errors = self.ray.exceptions
        try:
            self.ray.get(self.handles[index].ready.remote(), timeout=SECONDS_TO_START)
        except errors.GetTimeoutError:
            raise RuntimeError(
                f"actor {index} did not start within {SECONDS_TO_START:g} seconds: it needs a CPU of its own, and "
                "`ray status` shows which are taken"
            ) from None
        except errors.RayError as error:
            raise RuntimeError(f"actor {index} could not start: {error}") from error

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            try:
                for handle in self.handles:
                    self.ray.kill(handle)
            finally:
                Session.leave()
