"""`agentlib plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agentlib.shell.flags import Options, count, flag
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Plot(Options):
    """Draw the learning curves of runs; runs that differ in their seed only become one curve, their mean."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...", help_behavior_hint="")]
    """The runs' folders."""
    metric: Annotated[str | None, flag("NAME")] = None
    """The metric; the default is the return of evaluations or episodes, or else the loss."""
    out: Path = Path("curves.png")
    """The file to write."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Plot, prog="agentlib plot", args=arguments)
    if not options.folders:
        raise UsageError("say which runs: agentlib plot DIR ...")
    if options.out.suffix != ".png":
        raise UsageError(f"a picture is written as .png, not as {options.out.name}")
    from agentlib.plots.pictures import save
    from agentlib.runs.report import USUAL, curves_of
    from agentlib.runs.several import by_kind, run_in, scalars_of

    runs = [run_in(folder) for folder in options.folders]
    found = [scalars_of(folder) for folder in options.folders]
    metric = options.metric or next((name for name in USUAL if all(name in each for each in found)), None)
    lacking = [folder for folder, each in zip(options.folders, found, strict=True) if metric not in each]
    if metric is None or lacking:
        known = ", ".join(sorted(set.intersection(*map(set, found)))) or "none"
        which = f"{lacking[0]} has no metric {metric}" if metric else "the runs have no metric in common that is usual"
        raise UsageError(f"{which}; with --metric: {known}")
    scalars = dict(zip(options.folders, found, strict=True))
    kinds = {name: [scalars[one.folder] for one in same] for name, same in by_kind(runs).items()}
    print(f"{save(curves_of(kinds, metric), options.out)}: {metric} of {count(len(found), 'run')}")
    return 0
