"""The reports of a run while it goes: its trackers, a progress bar, or a table as SB3 prints it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from agentlib.core.progress import bar_size
from agentlib.core.schedules import Clock
from agentlib.runs.trackers import close

Progress = bool | Literal["table"]

SECONDS_BETWEEN_TABLES = 5.0
"""A table is printed, and a bar that is not on a terminal drawn, no more often than this."""


class Log:
    """Shows the numbers of a run, under SB3's names, on the axis of its steps.

    They go from `first`, which is not 0 in a run that is resumed, to `total`, and to each of `trackers`, as
    `agentlib.runs.trackers` has them. `progress` is True for a bar with this name, "table" for a table now and then, or
    False.
    """

    def __init__(self, trackers: Sequence[Any], progress: Progress, first: int, total: int, name: str) -> None:
        # A program without a terminal, such as a service, may have no streams at all.
        stream = sys.stderr if progress is True else sys.stdout
        self.progress, self.total = progress if stream is not None else False, total
        self.first = first
        self._printed = -SECONDS_BETWEEN_TABLES
        self.trackers = trackers
        self._bar: Any = None
        if self.progress is True:
            from tqdm import tqdm

            interval = 0.2 if sys.stderr.isatty() else SECONDS_BETWEEN_TABLES  # a file keeps every refresh
            self._bar = tqdm(total=total, desc=name, unit="step", mininterval=interval, **bar_size())
            self._bar.update(min(first, total))
        self.started = time.monotonic()

    def note(self, text: str) -> None:
        """Shows why nothing moves."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self.progress == "table":
            _print(text)

    def write(self, clock: Clock, metrics: dict[str, float]) -> None:
        """Writes numbers, and moves the bar or prints the table."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        metrics = metrics | {
            "time/fps": (int(clock.steps) - self.first) / elapsed,
            "time/time_elapsed": elapsed,
            "time/total_timesteps": float(clock.steps),
            "train/n_updates": float(clock.updates),
        }
        for tracker in self.trackers:
            tracker.log(dict(metrics), int(clock.steps))
        if self._bar is not None:
            self._bar.update(min(int(clock.steps), self.total) - self._bar.n)
            shown = {"return": "rollout/ep_rew_mean", "eval": "eval/mean_reward", "loss": "train/loss"}
            # (refresh=False: the bar draws itself, at its own interval)
            self._bar.set_postfix({k: f"{metrics[n]:.4g}" for k, n in shown.items() if n in metrics}, refresh=False)
        now, is_over = time.monotonic(), int(clock.steps) >= self.total
        if self.progress == "table" and (is_over or now - self._printed > SECONDS_BETWEEN_TABLES):
            self._printed = now
            _print(table(metrics))

    def close(self) -> None:
        """Flushes and closes; the numbers so far are on disk."""
        if self._bar is not None:
            self._bar.close()
        close(self.trackers)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(metrics: dict[str, float]) -> str:
    """The numbers as SB3's `verbose=1` prints them: grouped by what stands before the slash."""
    rows: list[tuple[str, str]] = []
    group = None
    for name in sorted(metrics):
        head, _, tail = name.rpartition("/")
        if head != group:
            rows.append((f"{head}/", ""))
        group = head
        value = metrics[name]
        is_whole = abs(value) < 1e15 and value == int(value)  # such as counts of steps, which are not to be rounded
        rows.append((f"   {tail}", str(int(value)) if is_whole else f"{value:.4g}"))
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    line = "-" * (left + right + 7)
    body = "\n".join(f"| {name:<{left}} | {value:<{right}} |" for name, value in rows)
    return f"{line}\n{body}\n{line}"
