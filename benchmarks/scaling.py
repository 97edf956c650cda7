"""How far it pays to add processes, on paper: service times that were measured, and the slowest part decides.

    python benchmarks/scaling.py     # prints the tables of docs/scaling.md

Data parallel updates of n processes take   t / n + latency log2 n + 2 (n - 1) / n * bytes / bandwidth   (a ring).
Actors that send blocks give   min(n / seconds per step of an actor, 1 / seconds per step of the learner's process).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LATENCY, BANDWIDTH = 1.5e-3, 0.5e9
"""Of gloo's sum between two processes of one machine: seconds, and bytes per second (4,600 floats took 1.3 to 3.3 ms,
134,000 took 2 to 3 ms, and 1.7 million took 14 to 17 ms)."""
PER_BLOCK, PER_TRANSITION = 2.9e-3, 1.0e-6
"""Seconds of the learner's process to fetch a block of Ray's object store, and more for each step in it: blocks of 256
took 2.9 to 3.5 ms, blocks of 4,096 took 6 to 7.5 ms."""
WEIGHTS = 11.5e-3
"""Seconds to put 100 KB of weights into the store and to set them in two actors."""
CLEANBA = {1: 154.1, 2: 93.3, 4: 52.5, 8: 30.5}
"""Minutes of Cleanba's run on Breakout by its number of A100 (its README)."""


def exchange(parameters: float, n: int) -> float:
    """Seconds of one sum of float32 gradients over n processes."""
    return LATENCY * math.log2(n) + 2 * (n - 1) / n * 4 * parameters / BANDWIDTH if n > 1 else 0.0


def speed_up(update: float, parameters: float, n: int) -> float:
    """How many times as fast n processes do an update that takes one of them `update` seconds."""
    return update / (update / n + exchange(parameters, n))


def strong_scaling(first: float, second: float, n: int) -> float:
    """The time of n devices, where one takes `first`, two take `second`, and each doubling loses the same share."""
    lost = 2 * second / first - 1
    return first / n * (1 + lost * math.log2(n))


def actors(step: float, n: int, block: int = 256, learning: float = 0.0) -> float:
    """Environment steps per second of n actors.

    Args:
        step: seconds of an environment's step and of the policy's choice.
        n: number of actors.
        block: steps that an actor sends at once; it waits for weights in between.
        learning: seconds of updates for each step, in the process that fetches.
    """
    actor = step + (WEIGHTS / 2 + PER_BLOCK) / block
    driver = PER_BLOCK / block + PER_TRANSITION + learning
    return min(n / actor, 1 / driver)


def saturation(step: float, block: int = 256, learning: float = 0.0) -> int:
    """The number of actors beyond which more are idle."""
    most = actors(step, 1 << 30, block, learning)
    return math.ceil(most / actors(step, 1, block, learning) - 1e-9)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def data_parallel_table() -> str:
    """Speed-ups by the length of an update and the number of processes."""
    sizes = {"1 ms, 10,000 parameters": (1e-3, 1e4), "20 ms, 1.7 million": (20e-3, 1.7e6)}
    sizes |= {"200 ms, 1.7 million": (0.2, 1.7e6), "2 s, 10 million": (2.0, 1e7)}
    counts = (2, 4, 8, 16, 64)
    rows = [[name, *(f"{speed_up(*size, n):.1f}" for n in counts)] for name, size in sizes.items()]
    return _table(["update of one process", *map(str, counts)], rows)


def cleanba_table() -> str:
    """Its times beside those that follow from one and two devices."""
    ns = list(CLEANBA)
    model = [f"{strong_scaling(CLEANBA[1], CLEANBA[2], n):.1f}" for n in ns]
    rows = [["measured, minutes", *(f"{CLEANBA[n]:.1f}" for n in ns)], ["from one and two", *model]]
    rows.append(["efficiency", *(f"{100 * CLEANBA[1] / CLEANBA[n] / n:.0f}%" for n in ns)])
    return _table(["A100", *map(str, ns)], rows)


def actors_table() -> str:
    """Environment steps per second by the cost of a step and the number of actors."""
    kinds = {"CartPole, 20 us": (20e-6, 256), "Atari, 360 us": (360e-6, 256), "2 ms": (2e-3, 256)}
    kinds |= {"R2D2's actor, 3.8 ms": (3.8e-3, 256), "the same in blocks of 4,096": (3.8e-3, 4096)}
    counts = (1, 8, 64, 256, 1024)
    rows = [
        [name, *(f"{actors(step, n, block):,.0f}" for n in counts), f"{saturation(step, block):,}"]
        for name, (step, block) in kinds.items()
    ]
    return _table(["a step of the actor", *(f"{n:,}" for n in counts), "more are idle from"], rows)


if __name__ == "__main__":
    print(data_parallel_table(), cleanba_table(), actors_table(), sep="\n\n")
