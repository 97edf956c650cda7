"""`agentlib compare`: ours beside Stable-Baselines3's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import agentlib
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.shell.flags import count, keywords
from agentlib.shell.options import (
    choose,
    flag_field,
    folder_for,
    parsed,
    print_settings,
    run_flags,
    without_learner,
)
from agentlib.shell.stopping import UsageError

SUMMARY = "Train our agent and Stable-Baselines3's with the same settings and seeds, and compare returns and times."
STRICT = "Refuse options that Stable-Baselines3 lacks; otherwise they are noted as a difference."
UNTIL = "End each run at its first evaluation, of 20 episodes, with this mean return; --steps is the most then."
BACKBONE = "Network of both sides: lstm compares PPO with memory to RecurrentPPO of sb3-contrib."
OUT = (
    "Folder of the report and of both sides' agents; the default is runs/compare-WHAT-ENV-1, or the next number that "
    "is free."
)
FIELDS = [
    *run_flags(("env", "n_envs", "env_kwargs", "steps", "device")),
    flag_field("backbone", Literal["auto", "lstm"], "auto", BACKBONE),
    flag_field("seeds", int, 5, "Number of seeds; each side trains once for each."),
    flag_field("episodes", int, 100, "Number of evaluation episodes of each final agent."),
    flag_field("threads", int | None, None, "Number of torch's threads for both sides; the default is torch's own."),
    flag_field("strict", bool, True, STRICT),
    flag_field("until", float | None, None, UNTIL, "RETURN"),
    flag_field("eval_every", int | None, None, "Steps between these evaluations; a fiftieth of --steps by default."),
    flag_field("video", bool, False, "Record an episode of our best final agent as a video, for the report."),
    flag_field("verbose", bool, False, "Print all hyperparameters, by where they come from."),
    flag_field("out", Path | None, None, OUT, "DIR"),
]


def _known() -> list[str]:
    """The learners that Stable-Baselines3 has, too."""
    return [name for name in LEARNERS if recipe_of(name).sb3 is not None]


def run(arguments: list[str]) -> int:
    """Runs the command."""
    if not arguments or arguments[0].startswith("-"):
        without_learner("compare", SUMMARY, FIELDS, arguments, _known())
    what, rest = arguments[0], arguments[1:]
    choice = choose(what, rest)
    if choice.recipe.sb3 is None:
        raise UsageError(f"Stable-Baselines3 has no counterpart of {what}; there is {', '.join(_known())}")
    options: Any = parsed(choice, "compare", what, SUMMARY, FIELDS, rest)
    if options.steps is None:
        raise UsageError(f"agentlib compare {what} needs --steps N, such as --steps 50_000")
    length = f"{count(options.steps, 'step')}, {count(options.seeds, 'seed')}"
    title = f"{choice.recipe.name} on {options.env}, ours and Stable-Baselines3's: {length}"
    with folder_for(f"compare-{choice.recipe.name}-{options.env}", options.out) as folder:
        print_settings(title, options.hyperparameter, choice, options.verbose)
        comparison = agentlib.compare(
            choice.recipe,
            env=options.env,
            steps=options.steps,
            n_envs=options.n_envs,
            backbone=options.backbone,
            seeds=options.seeds,
            out=folder,
            env_kwargs=keywords(options.env_kwargs),
            episodes=options.episodes,
            threads=options.threads,
            device=options.device,
            strict=options.strict,
            until=options.until,
            eval_every=options.eval_every,
            video=options.video,
            progress=sys.stderr.isatty() or "lines",
            **vars(options.hyperparameter),
        )
    print(f"{comparison}\n\nReport: {folder / 'report.html'}")
    return 0
