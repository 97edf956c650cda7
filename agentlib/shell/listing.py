"""`agentlib list`: the learners, backbones, environments and data sets that there are."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from agentlib.catalog import LEARNERS
from agentlib.core.names import close_matches
from agentlib.shell.flags import WIDTH, Options, flag
from agentlib.shell.stopping import UsageError

KINDS = ("learners", "backbones", "envs", "data")


@dataclass(frozen=True, kw_only=True)
class List(Options):
    """Name the learners, backbones, environments and data sets that there are."""

    what: Annotated[
        tyro.conf.Positional[Literal["learners", "backbones", "envs", "data"] | None],
        flag("[learners|backbones|envs|data]"),
    ] = None
    """The kind to list; all of them without it."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    for word in arguments:
        if not word.startswith("-") and word not in KINDS:
            raise UsageError(f"there is no kind {word!r} to list{close_matches(word, KINDS)}")
    options = tyro.cli(List, prog="agentlib list", args=arguments)
    for title, rows in (("learners", _learners), ("backbones", _backbones), ("envs", _environments), ("data", _data)):
        if options.what in (None, title):
            _print_table(title, rows())
    return 0


def _learners() -> dict[str, str]:
    return {name: summary for name, (_, summary) in LEARNERS.items()}


def _backbones() -> dict[str, str]:
    from agentlib.backbones.choice import NAMED_BACKBONES

    def text(entry: Any) -> str:
        example = f"{entry.parameters():,} parameters on {entry.example.dtype} {entry.example.shape}"
        return f"{entry.summary}. For {entry.takes}; {example}; {entry.reference}"

    return {name: text(entry) for name, entry in NAMED_BACKBONES.items()}


def _environments() -> dict[str, str]:
    """The newest version of each registered environment, by what it comes from."""
    import gymnasium

    newest = {env_id.rpartition("-v")[0]: env_id for env_id in gymnasium.registry}
    groups: dict[str, list[str]] = {"agentlib": []}
    for env_id in newest.values():
        entry = gymnasium.registry[env_id].entry_point
        if isinstance(entry, str):
            group = entry.removeprefix("gymnasium.envs.").split(":")[0].split(".")[0]
            groups.setdefault(group, []).append(env_id)
    known = {group: ", ".join(sorted(ids)) for group, ids in groups.items()}
    return known | {
        "atari": "ALE/Pong-v5 and others, with pip install 'agentlib-rl[atari]'",
        "minigrid": "MiniGrid-Empty-5x5-v0 and others, with pip install 'agentlib-rl[minigrid]'",
    }


def _data() -> dict[str, str]:
    from agentlib.data import DATASETS, TASKS

    return {name: (make.__doc__ or "").splitlines()[0] for name, make in {**DATASETS, **TASKS}.items()}


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 2
    print(title)
    for name, text in rows.items():
        indent = " " * (width + 2)
        print(textwrap.fill(f"  {name:<{width}}{text}", WIDTH, subsequent_indent=indent, break_on_hyphens=False))
