"""Things that are chosen by name."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Thing = TypeVar("Thing")


LONGEST = 200
"""Characters of a value in a message."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = LONGEST


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is; what a file says may be long, deep, or refer to itself."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def printable(text: str, kept: str = "") -> str:
    """The text with a code for each character that a terminal would act on, such as those of an escape sequence.

    Those in `kept`, such as a new line, stay as they are.
    """
    return "".join(one if one.isprintable() or one in kept else repr(one)[1:-1] for one in text)


def one_line(error: object) -> str:
    """An error or a text for a message: one line, not too long, without the stack of C++ that torch appends."""
    text = " ".join(str(error).partition("Exception raised from")[0].split())
    return printable(text[: 3 * LONGEST])[: 3 * LONGEST]


def close_matches(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what was probably meant, or all that is known."""
    known = [printable(one[:LONGEST]) for one in known]
    close = difflib.get_close_matches(name[:LONGEST], known, n=3, cutoff=0.5)
    return f"; close matches: {', '.join(close)}" if close else f"; known: {', '.join(known)}"


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The entry of a table under a name.

    Raises:
        ValueError: an unknown name; the message has the close matches.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}{close_matches(str(name), table)}")
    return table[name]


def readable(number: float, sign: bool = False) -> str:
    """A number as a person writes it: fewer decimals the larger it is; `sign` shows a plus too."""
    size = abs(number)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    rounded = round(number, decimals) + 0.0  # + 0.0 makes -0.0 a plain zero
    return f"{rounded:{'+' if sign else ''},.{decimals}f}"
