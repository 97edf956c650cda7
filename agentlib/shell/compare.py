"""`agentlib compare`: ours beside Stable-Baselines3's."""

from __future__ import annotations

import sys
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

import agentlib
from agentlib.shell.options import (
    choose,
    count,
    keywords,
    new_folder,
    parsed,
    print_settings,
    remove_if_unused,
    run_flags,
    without_learner,
)
from agentlib.shell.stopping import UsageError

SUMMARY = "Train our agent and Stable-Baselines3's with the same settings and seeds, and compare returns and times."


def _own(kind: Any, default: Any, help: str, **shown: Any) -> Any:
    hint: Any = {"help_behavior_hint": ""} if default is None else {}
    return Annotated[kind, tyro.conf.arg(help=help, **shown, **hint)], field(default=default)


STRICT = "Refuse options that Stable-Baselines3 lacks; otherwise they are noted as a difference."
OUT = (
    "Folder of the report and of both sides' agents; the default is runs/compare-WHAT-ENV-1, or the next number that "
    "is free."
)
FIELDS = [
    *run_flags(("env", "env_kwargs", "steps", "device")),
    ("seeds", *_own(int, 5, "Number of seeds; each side trains once for each.")),
    ("episodes", *_own(int, 100, "Number of evaluation episodes of each final agent.")),
    ("threads", *_own(int | None, None, "Number of torch's threads for both sides; the default is torch's own.")),
    ("strict", *_own(bool, True, STRICT)),
    ("out", *_own(Path | None, None, OUT, metavar="DIR")),
]


def run(arguments: list[str]) -> int:
    """Runs the command."""
    if not arguments or arguments[0].startswith("-"):
        without_learner("compare", SUMMARY, FIELDS, arguments)
    what, rest = arguments[0], arguments[1:]
    choice = choose(what, rest)
    if choice.recipe.sb3 is None:
        raise UsageError(f"Stable-Baselines3 has no counterpart of {what}; there is dqn, rainbow")
    options: Any = parsed(choice, "compare", what, SUMMARY, FIELDS, rest)
    if options.steps is None:
        raise UsageError(f"agentlib compare {what} needs --steps N, such as --steps 50_000")
    config = options.hyperparameter
    hyperparameters = {item.name: getattr(config, item.name) for item in fields(config)}
    folder = options.out or new_folder(f"compare-{choice.recipe.name}-{options.env}")
    length = f"{count(options.steps, 'step')}, {count(options.seeds, 'seed')}"
    print_settings(f"{choice.recipe.name} on {options.env}, ours and Stable-Baselines3's: {length}", config, choice)
    try:
        comparison = agentlib.compare(
            choice.recipe,
            env=options.env,
            steps=options.steps,
            seeds=options.seeds,
            out=folder,
            env_kwargs=keywords(options.env_kwargs),
            episodes=options.episodes,
            threads=options.threads,
            device=options.device,
            strict=options.strict,
            progress=sys.stderr.isatty() or "lines",
            **hyperparameters,
        )
    finally:
        remove_if_unused(folder, options.out)
    print(f"{comparison}\n\nReport: {folder / 'report.html'}")
    return 0
