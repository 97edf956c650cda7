"""`agentlib report`: one page about a run, or about several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agentlib.shell.flags import Options, count
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Report(Options):
    """Write one page about runs: results with intervals, curves, settings; runs that differ in their seed are one."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...", help_behavior_hint="")]
    """The runs' folders."""
    out: Path = Path("report.html")
    """The file to write."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Report, prog="agentlib report", args=arguments)
    if not options.folders:
        raise UsageError("say which runs: agentlib report DIR ...")
    if options.out.suffix != ".html":
        raise UsageError(f"a page is written as .html, not as {options.out.name}")
    from agentlib.backbones.files import replacing
    from agentlib.runs.report import report_of
    from agentlib.runs.several import run_in

    folders = {folder.resolve(): folder for folder in options.folders}.values()  # each once
    page = report_of([run_in(folder) for folder in folders]).html()
    with replacing(options.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{options.out}: {count(len(folders), 'run')}")
    return 0
