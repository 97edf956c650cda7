"""The moments of a run at which `train` calls functions of yours, and usual functions for them.

    train(..., callback=stop_after(3600))
    train(..., callback=[stop_on_reward(475), stop_after(3600)], eval_every=5_000)
    train(..., callback={"best": lambda clock, metrics, agent: agent.push_to_hub("me/cartpole")}, eval_every=5_000)

A function is called with the clock and the latest numbers, and with `agent=` if it has such a parameter. A false answer
other than None ends the run.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentlib.core.schedules import Clock

Callback = Callable[..., object]
Callbacks = Callback | Sequence[Callback] | Mapping[str, Callback | Sequence[Callback]]
"""One function or several for the moment "log"; or those of each moment by its name."""
MOMENTS = ("start", "evaluation", "best", "log", "checkpoint", "end")
"""Before the first update; after an evaluation, and if it is the best so far; about a hundred times per run and after
each evaluation; when a checkpoint was written; after the last update."""
REWARD = "eval/mean_reward"


def by_moment(callbacks: Callbacks | None) -> dict[str, tuple[Callback, ...]] | None:
    """The functions of each moment; None where these are none, or a moment has another name."""
    moments = callbacks if isinstance(callbacks, Mapping) else {"log": () if callbacks is None else callbacks}
    found = {name: tuple(one) if isinstance(one, list | tuple) else (one,) for name, one in moments.items()}
    fits = set(found) <= set(MOMENTS) and all(callable(one) for some in found.values() for one in some)
    return found if fits else None


def call(functions: Sequence[Callback], clock: Clock, metrics: Mapping[str, float], agent: Any) -> bool:
    """Calls functions; whether one of them asks for the end of the run."""
    answers = [one(clock, dict(metrics), **({"agent": agent} if _takes_agent(one) else {})) for one in functions]
    return any(answer is not None and not answer for answer in answers)


def _takes_agent(function: Callback) -> bool:
    try:
        return "agent" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a function in C
        return False


def stop_on_reward(least: float, metric: str = REWARD) -> Callback:
    """Ends the run once a metric is at least this, as SB3's `StopTrainingOnRewardThreshold`."""
    return lambda clock, metrics: metrics.get(metric, -math.inf) < least


def stop_without_improvement(evaluations: int, min_evaluations: int = 0, metric: str = REWARD) -> Callback:
    """Ends the run after more evaluations in a row than this without a new best one, as SB3's
    `StopTrainingOnNoModelImprovement`; the first `min_evaluations` do not count.
    """
    best, seen, waited = -math.inf, 0, 0

    def callback(clock: Clock, metrics: Mapping[str, float]) -> bool:
        nonlocal best, seen, waited
        if metric in metrics:
            seen += 1
            waited = 0 if metrics[metric] > best or seen <= min_evaluations else waited + 1
            best = max(best, metrics[metric])
        return waited <= evaluations

    return callback


def stop_after(seconds: float) -> Callback:
    """Ends the run at the first log that comes this many seconds after this call."""
    end = time.monotonic() + seconds
    return lambda clock, metrics: time.monotonic() < end


def save_agents(folder: str | Path) -> Callback:
    """Saves the agent as `agent_STEPS.safetensors` at each call."""
    return lambda clock, metrics, agent: agent.save(Path(folder) / f"agent_{int(clock.steps)}") is not None
