"""Acts in eight threads while one trains, for so many minutes; counts errors and watches memory.

    python benchmarks/soak.py [--minutes 30] [--threads 8]

Exits with 1 after any error, or if the process has grown by more than 1% since its warm-up, the first fifth.
"""

import argparse
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

import agentlib

GROWTH = 0.01


def resident() -> int:
    """Bytes of memory that the process occupies."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc does not say how much memory is used")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()

    settings = {"env": "CartPole-v1", "progress": False, "compile": False, "net_arch": (64, 64), "buffer_size": 2_000}
    agent = agentlib.train("dqn", steps=1_500, **settings)
    observations = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    wanted = agent.act(observations)
    end, over = time.monotonic() + 60.0 * arguments.minutes, threading.Event()
    errors: list[str] = []
    acted = [0] * arguments.threads
    runs = [0]

    def guarded(work):
        while not over.is_set():
            try:
                work()
            except Exception:
                errors.append(traceback.format_exc())

    def act(number: int) -> None:
        batch = slice(number, None, arguments.threads)
        if not np.array_equal(agent.act(observations[batch]), wanted[batch]):
            raise AssertionError("another action than alone")
        agent.act(observations[number])
        acted[number] += 1

    def train() -> None:
        agentlib.train("dqn", steps=2_000, seed=runs[0], agent=agent, callback=lambda *_: not over.is_set(), **settings)
        runs[0] += 1

    works = [lambda number=number: act(number) for number in range(arguments.threads)] + [train]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(0.2 * 60.0 * arguments.minutes)
    first = largest = resident()
    while time.monotonic() < end:
        time.sleep(min(5.0, max(end - time.monotonic(), 0.01)))
        largest = max(largest, resident())
    over.set()
    for thread in threads:
        thread.join()
    growth = largest / first - 1.0
    print(
        f"{arguments.minutes:g} minutes, {arguments.threads} threads: {sum(acted):,} rounds of acting, {runs[0]} runs"
    )
    print(f"errors: {len(errors)}; memory {first / 2**20:.1f} MiB after the warm-up, at most {100 * growth:+.2f}%")
    for error in errors[:3]:
        print(error, file=sys.stderr)
    return int(bool(errors) or growth > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
