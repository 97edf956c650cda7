"""`agentlib scale`: how the loss of a model of language falls with its size and its text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agentlib.shell.flags import Watched, flag, keywords, progress_of, whole_numbers
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Scale(Watched):
    """Train models of several widths for several lengths; fit Kaplan's and Chinchilla's laws, with 95% intervals."""

    what: Annotated[tyro.conf.Positional[Literal["gpt"]], tyro.conf.arg(metavar="gpt")]
    """The learner."""
    data: Annotated[str, flag("NAME|PATH")]
    """The text to learn from; the last tenth of it is held out."""
    out: Annotated[Path, flag("DIR")]
    """The folder of the numbers and the picture; runs that it has are not trained again."""
    widths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (16, 24, 32, 48)
    """Widths of the models, two or more."""
    steps: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (250, 500, 1_000, 2_000)
    """Lengths of the runs, in updates, two or more."""
    compute: Annotated[float | None, flag("FLOPS")] = None
    """Operations of the next run; the default is ten times those of the largest one."""
    settings: Annotated[tuple[str, ...], flag("NAME=VALUE ...")] = ()
    """Hyperparameters of all runs, such as n_layers=2 batch_size=32."""
    seed: int = 0
    """Seed of all runs."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Scale, prog="agentlib scale", args=arguments, registry=whole_numbers())
    widths, lengths = len(set(options.widths)), len(set(options.steps))
    if min(widths, lengths) < 2 or widths * lengths < 7:
        raise UsageError("laws need two --widths and two --steps, and seven runs in all, at least")
    if options.compute is not None and not options.compute > 6.0:
        raise UsageError("--compute is a number of operations, 6 for each parameter and token, such as 1e15")
    from agentlib.core.progress import showing
    from agentlib.runs.scale import draw, report, scaling_runs

    with showing(progress_of(options.progress)):
        more = keywords(options.settings, "--settings")
        runs = scaling_runs(options.data, options.widths, options.steps, out=options.out, seed=options.seed, **more)
    for one in runs:
        sizes = f"{one.parameters:>12,} parameters {one.tokens:>14,} tokens"
        print(f"width {one.embed_dim:<5} {one.steps:>7,} updates {sizes} {one.loss:>9.4f} nats")
    print(report(runs, options.compute))
    print(draw(runs, options.out / "scaling.png"))
    return 0
