"""What the parts of DQN's loop on CartPole-v1 cost inside a run: `python benchmarks/loop.py`.

SB3's defaults, compiled. Each part is timed in a run of its own, with the other parts untimed, three times in turns;
the table has the medians, in µs per environment step. A clock around a part adds about 0.2 µs to it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from agentlib.engine.traced import TracedCycle
from agentlib.learners import run
from benchmarks.speed import DEFAULTS, dqn_job, our_run, threads_of_all, through

STEPS = 60_000
PARTS: dict[str, Callable[[Any], tuple[tuple[Any, str], ...]]] = {
    "the environment itself (Gymnasium's), resets included": lambda c: ((c.envs.env, "step"), (c.envs.env, "reset")),
    "`Environments.step`, around it": lambda c: ((c.envs, "step"),),
    "exploration and acting": lambda c: ((c, "exploration"),),
    "the buffer": lambda c: ((c.buffer, "add"), (c.buffer, "begin"), (c.buffer, "flush")),
    "the collector, all of these included": lambda c: ((c, "step"), (c.buffer, "flush")),
}


def seconds_of(part: str | None) -> tuple[float, float]:
    """Seconds of a whole run, and of one part of it; "update" is the compiled graph with what calls it."""
    job = dqn_job(DEFAULTS, "CartPole-v1", STEPS, 1)
    spent = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent += time.perf_counter() - started

        return work

    plain = TracedCycle.__call__
    if part == "update":
        TracedCycle.__call__ = timed(plain)  # type: ignore[method-assign]
    elif part is not None:
        for owner, name in PARTS[part](job.source.collector):
            setattr(owner, name, timed(getattr(owner, name)))
    try:
        started = time.perf_counter()
        through(run(job.learner, job.source, job.length.updates, compile=True))
        return time.perf_counter() - started, spent
    finally:
        TracedCycle.__call__ = plain  # type: ignore[method-assign]
        job.source.close()


def main() -> None:
    """Prints the table."""
    with threads_of_all(1):
        our_run(DEFAULTS, STEPS, 0)  # compiles
        found: dict[str, list[float]] = {}
        for _ in range(3):
            for part in (*PARTS, "update", None):
                whole, spent = seconds_of(part)
                found.setdefault(part or "a whole step, with its quarter of an update", []).append(
                    (spent if part else whole) / STEPS * 1e6
                )
    for part, values in found.items():
        print(f"{part:60} {statistics.median(values):5.1f}")


if __name__ == "__main__":
    main()
