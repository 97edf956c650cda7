"""The data sets of papers: files in the folder that the environment variable AGENTLIB_DATA names.

They are no part of the project. A row that needs one is skipped, with a line that says so, where it is absent.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

FILES = {
    "mnist.npz": "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
    "omniglot_small.npz": "9e37426d6e2e4004c23b0c3d130a875131fc7b4e85fb7219d5f166b20dd2b6e6",
    "tinyshakespeare.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
}
"""SHA-256 of each; benchmarks/evidence/README.md says where they are from."""


def missing(names: tuple[str, ...]) -> str | None:
    """Why these files cannot be used, in words; None where all are there."""
    folder = os.environ.get("AGENTLIB_DATA")
    if names and not folder:
        return f"it needs {', '.join(names)} in the folder that AGENTLIB_DATA names, which is unset"
    for name in names:
        file = Path(folder or "", name)
        if not file.is_file():
            return f"it needs {name}, and the folder of AGENTLIB_DATA, {folder}, has none"
        if digest(file) != FILES[name]:
            return f"{file} is another file than the one that is meant: its SHA-256 is not {FILES[name]}"
    return None


@cache
def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def path(name: str) -> str:
    """The file's path; for a row that `missing` lets run.

    Raises:
        FileNotFoundError: it cannot be used.
    """
    why = missing((name,))
    if why:
        raise FileNotFoundError(why)
    return str(Path(os.environ["AGENTLIB_DATA"], name))
