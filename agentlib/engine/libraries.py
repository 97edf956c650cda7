"""Where compiled updates are kept on disk, each with a checksum in its name."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """Where compiled code is kept: `AGENTLIB_CACHE`, or agentlib in the user's folder for caches."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(os.environ.get("AGENTLIB_CACHE") or Path(home, "agentlib"), "compiled")
    found.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def kept(name: str, build: Callable[[Path], Path]) -> Path:
    """The library of this name, from the disk, or built into a folder that `build` is given.

    A library that was cut or changed on disk is deleted and built again: loading it could end the process.
    """
    place = folder()
    for path in sorted(place.glob(f"{name}-*.so")):
        if path.stem == f"{name}-{_checksum(path)}":
            return path
        path.unlink(missing_ok=True)
    # The compiler's command breaks at spaces.
    with tempfile.TemporaryDirectory(dir=None if " " in str(place) else place) as temporary:
        built = build(Path(temporary))
        path = place / f"{name}-{_checksum(built)}.so"
        shutil.copy(built, part := place / f"{name}-{os.getpid()}.part")
        os.replace(part, path)
    return path


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
