"""Things that are chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Thing = TypeVar("Thing")


def close_matches(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what was probably meant, or all that is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; close matches: {', '.join(close)}" if close else f"; known: {', '.join(known)}"


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """What a table has under a name.

    Raises:
        ValueError: an unknown name; the message has the close matches.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}{close_matches(str(name), table)}")
    return table[name]
