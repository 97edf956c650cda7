"""Small programs with tests, made from steps that each change a list of numbers.

    # reverse it, then add a number to each
    # [3, 1, 4] -> [6, 3, 5]
    # [2, 7, 7] -> [9, 9, 4]
    def f(x):
        x = x[::-1]
        x = [n + 2 for n in x]
        return x

The words leave numbers open, which the examples decide: a model that only reads the words is right by chance, and may
be helped by keeping those of its programs that agree with the examples (Li et al. 2022, arXiv:2203.07814).
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

STEPS = {
    "reverse it": "x[::-1]",
    "sort it": "sorted(x)",
    "sort it downwards": "sorted(x, reverse=True)",
    "drop the first": "x[1:]",
    "drop the last": "x[:-1]",
    "change signs": "[-n for n in x]",
    "square each": "[n * n for n in x]",
    "keep even ones": "[n for n in x if n % 2 == 0]",
    "write it twice": "x + x",
    "add a number to each": "[n + {k} for n in x]",
    "multiply each by a number": "[n * {k} for n in x]",
    "keep those above a number": "[n for n in x if n > {k}]",
}
"""What a step does, in words and as an expression of the list `x`; `{k}` is a number from 2 to 5."""
VISIBLE, HIDDEN = 2, 5
"""Examples that are shown, and those that a program is judged by."""

Example = tuple[list[int], list[int]]
"""A list of numbers, and the one that the program makes of it."""


class ProgramTask(NamedTuple):
    """A program to be written."""

    prompt: str
    """Words, examples, and the first line of the function `f`."""
    solution: str
    """The rest, of one program that is right."""
    visible: list[Example]
    """The examples of the prompt."""
    hidden: list[Example]
    """Others."""


def program_tasks(
    n: int, seed: int = 0, most_steps: int = 2, held_out: bool = False, share: float = 0.25
) -> list[ProgramTask]:
    """Tasks of one step, or of several one after the other.

    Args:
        n: number of tasks.
        seed: of the tasks.
        most_steps: steps of a program.
        held_out: of those orders of several steps that no other task has, always the same ones.
        share: that of these orders.
    """
    orders = [order for length in range(1, most_steps + 1) for order in product(STEPS, repeat=length)]
    apart = np.random.default_rng(0).random(len(orders)) < share
    chosen = [order for order, is_apart in zip(orders, apart, strict=True) if held_out == (is_apart and len(order) > 1)]
    if not chosen:
        raise ValueError(f"no orders of up to {most_steps} steps are held out: raise most_steps, or the share")
    generator = np.random.default_rng([seed, int(held_out)])
    return [_task(chosen[generator.integers(len(chosen))], generator) for _ in range(n)]


def _task(order: tuple[str, ...], generator: Any) -> ProgramTask:
    expressions = [STEPS[words].format(k=generator.integers(2, 6)) for words in order]
    examples = list[Example]()
    for _ in range(VISIBLE + HIDDEN):
        given = [int(number) for number in generator.integers(-3, 10, size=generator.integers(3, 6))]
        made = given
        for expression in expressions:
            made = eval(expression, {"x": made})  # noqa: S307 - one of `STEPS`
        examples.append((given, made))
    visible = examples[:VISIBLE]
    shown = "".join(f"# {given} -> {made}\n" for given, made in visible)
    lines = "".join(f"    x = {expression}\n" for expression in expressions)
    prompt = f"# {', then '.join(order)}\n{shown}def f(x):\n"
    return ProgramTask(prompt, f"{lines}    return x\n", visible, examples[VISIBLE:])
