"""Mistakes on the command line that are found before torch is imported, which takes seconds.

A learner's options are the fields of its config, and only importing it, and torch with it, tells them. So an option is
looked for in the text of the package: one that is nowhere is wrong for certain. All else the command's parser finds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from agentlib.catalog import LEARNERS, unknown
from agentlib.core.names import printable
from agentlib.shell.flags import whole_number
from agentlib.shell.stopping import UsageError

FIELD = re.compile(r'^    (\w+): [^\n]*(?:\n    """| = option\()|flag_field\("(\w+)"', re.MULTILINE)
"""A field of a config, with its help below it; an option of a run; or a flag of a command."""
WHOLE = {"steps", "n_envs", "actors", "seed", "n_eval_episodes", "max_steps", "eval_every", "video_every"}
"""Options of a run that are whole numbers."""


def check_words(command: str, words: Sequence[str]) -> None:
    """Raises UsageError for a command line of a learner that names no learner, or an option that none has."""
    flags = {word.partition("=")[0] for word in words}
    what = "" if not words or words[0].startswith("-") else words[0]
    if {"-h", "--help"} & flags or ":" in what:  # the options of a recipe of one's own are elsewhere
        return
    if command == "compare" and not what:  # it lists those that can be compared
        return
    if not what and "--resume" not in flags:
        raise UsageError(f"say first what to {command}: agentlib {command} WHAT ...; there is {', '.join(LEARNERS)}")
    if what and what not in LEARNERS:
        raise UsageError(unknown(what))
    for word, successor in zip(words, [*words[1:], ""], strict=True):
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or flag.startswith("--tyro"):
            continue
        if not {name, name.removeprefix("no_")} & option_names():
            close = difflib.get_close_matches(name, option_names(), n=3, cutoff=0.75)
            known = "; close matches: " * bool(close) + ", ".join(f"--{one.replace('_', '-')}" for one in close)
            usage = " ".join(filter(None, ("agentlib", command, what, "--help")))
            raise UsageError(f"unknown option {printable(flag)}{known}; {usage} lists them")
        if name in WHOLE:
            value = text if equals else successor
            try:
                whole_number(value if value != "None" else "0")
            except ValueError:
                raise UsageError(f"{flag} takes a whole number, not {printable(repr(value))}") from None


@cache
def option_names() -> frozenset[str]:
    """More than the options of all learners: names of fields with a help text, wherever a config may be."""
    texts = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.parent.rglob("*.py"))
    configs = (text for text in texts if "kw_only=True" in text or "flag_field(" in text)
    found = (match for text in configs for match in FIELD.findall(text))
    # Those that the text does not show as fields: switches, and the short name of an optimizer.
    return frozenset({"compile", "verbose", "optimizer"} | {name for pair in found for name in pair if name})
