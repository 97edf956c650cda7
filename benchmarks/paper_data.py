"""The data sets of papers: files in the folder that the environment variable AGENTLIB_DATA names.

They are no part of the project. A row that needs one is skipped, with a line that says so, where it is absent.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

FILES = {
    "mnist.npz": "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64",
    "multi30k/train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "multi30k/train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "multi30k/val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "multi30k/val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "multi30k/test.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "multi30k/test.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
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
