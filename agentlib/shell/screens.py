"""Whether there is a screen, and how environments draw without one."""

from __future__ import annotations

import os
import sys


def has_screen() -> bool:
    """Whether a window can be opened; on systems other than Linux there always is a screen."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def draw_in_memory() -> None:
    """Pictures are drawn in memory: without a screen SDL would print errors, and then do so."""
    if not has_screen():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
