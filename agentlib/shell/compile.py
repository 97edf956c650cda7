"""`agentlib compile`: builds what the updates of a run compile to, for images and CI. Later runs only load it."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

from agentlib.core.host import torch_threads
from agentlib.core.recipe import gains_from_threads
from agentlib.engine import run as updates_of
from agentlib.engine.compiled import notices
from agentlib.engine.libraries import folder
from agentlib.engine.loop import updates_to_compile
from agentlib.runs.options import RunOptions
from agentlib.runs.plan import job_of
from agentlib.shell.flags import keywords
from agentlib.shell.options import choose, parsed, run_flags, threads_of, without_learner
from agentlib.shell.train import is_taken

SUMMARY = "Build what the updates of a run compile to. Give the flags of `agentlib train`; later runs load it."
NAMES = [
    field.name
    for field in dataclasses.fields(RunOptions)
    if field.name not in ("out", "progress", "log", "eval_every", "n_eval_episodes", "video_every")
]


def run(arguments: list[str]) -> int:
    """Runs the command."""
    if not arguments or arguments[0].startswith("-"):
        without_learner("compile", SUMMARY, run_flags(NAMES, threads="auto"), arguments)
    what, rest = arguments[0], arguments[1:]
    choice = choose(what, rest)
    fields = run_flags([name for name in NAMES if is_taken(name, choice.recipe)], threads="auto")
    options: Any = parsed(choice, "compile", what, SUMMARY, fields, rest)
    given = {name: getattr(options, name) for name in NAMES if hasattr(options, name)}
    given |= {"env_kwargs": keywords(given.get("env_kwargs", ())), "threads": threads_of(options.threads)}
    job = job_of(choice.recipe, RunOptions(**given), **vars(options.hyperparameter))
    threads = given["threads"]
    if threads == "auto":  # as `train` chooses: another number of threads is other code
        threads = None if gains_from_threads(job.learner) else 1
    before = notices.set(print)
    try:
        with torch_threads(threads):
            updates = updates_of(job.learner, job.source, job.length.updates, compile=True, precision=options.precision)
            list(islice(updates, 2))
    finally:
        notices.reset(before)
        job.source.close()
    print(f"The update of {choice.recipe.name} is in {folder()}")
    if job.length.updates < updates_to_compile(job.learner):
        print(f"A run of {job.length.updates:,} updates compiles only with --compile")
    return 0
