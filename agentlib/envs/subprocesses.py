"""Environments in processes of their own, with a time limit for each step."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing import connection
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from agentlib.envs.making import make_env
from agentlib.envs.wrappers import Checked


class Subprocesses(AsyncVectorEnv):
    """For `env=`: environments that are slow, that crash or that hang, each in a process of its own.

    A step or a reset that takes longer than the limit raises TimeoutError, and a worker that died ChildProcessError; in
    training both come as `EnvironmentFailure`, and the learner keeps its state. The code
    that made this must call `close`, which ends workers that do not answer.

    Args:
        env: an id, or a function that makes an environment.
        n_envs: how many.
        timeout: seconds that a step or a reset may take.
        env_kwargs: for the environment's constructor.
        context: how processes are started: "fork", "spawn" or "forkserver"; None as is usual on the system.
    """

    def __init__(
        self,
        env: str | Callable[..., gymnasium.Env[Any, Any]],
        n_envs: int = 1,
        *,
        timeout: float = 60.0,
        env_kwargs: dict[str, Any] | None = None,
        context: str | None = None,
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout}")
        self.timeout, self.failed = timeout, False
        make = partial(_checked, env, env_kwargs)
        super().__init__([make] * n_envs, context=context, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> Any:
        """One step of each."""
        return self._in_time("step", partial(self.step_async, actions), self.step_wait)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """New episodes everywhere."""
        return self._in_time("reset", partial(self.reset_async, seed=seed, options=options), self.reset_wait)

    def _in_time(self, what: str, begin: Callable[[], Any], wait: Callable[..., Any]) -> Any:
        try:
            begin()
            return wait(timeout=self.timeout)
        except multiprocessing.TimeoutError:
            self.failed = True
            raise TimeoutError(f"a {what} took longer than the limit of {self.timeout:g} seconds") from None
        except (EOFError, ConnectionError) as error:
            self.failed, self._state = True, AsyncState.DEFAULT
            dying = connection.wait([process.sentinel for process in self.processes], timeout=5.0)
            for process in self.processes:
                if process.sentinel in dying:
                    process.join(5.0)  # its pipes close a moment before it has an exit code
            codes = [process.exitcode for process in self.processes if not process.is_alive()]
            raise ChildProcessError(f"a worker process died during a {what}, exit code {codes}") from error
        except Exception:  # of an environment; Gymnasium has ended its worker, and nothing is waited for
            self.failed, self._state = True, AsyncState.DEFAULT
            raise

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers; after a failure without asking them."""
        super().close_extras(timeout, terminate or self.failed)


def _checked(env: str | Callable[..., gymnasium.Env[Any, Any]], env_kwargs: dict[str, Any] | None) -> Checked:
    """An environment of a worker process."""
    return Checked(make_env(env, env_kwargs=env_kwargs))
