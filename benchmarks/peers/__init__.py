"""Libraries that cannot share our environment, in environments of their own."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentlib"
PACKAGES = {
    "imitation": (["torch==2.13.0"], ["imitation==1.0.1", "setuptools<81"]),
    "sbx": (["torch==2.13.0"], ["sbx-rl==0.28.0"]),
    "cleanrl": (
        ["torch==2.13.0"],
        ["--no-deps", "--ignore-requires-python", "cleanrl==1.2.0"],  # of 1.2.0 pip says that it is for Python < 3.11
        ["gym==0.23.1", "pygame", "numpy<2", "tensorboard", "setuptools<81"],
    ),
    "envpool": (
        ["torch==2.13.0"],
        ["envpool==1.2.5", "gymnasium==1.4.0", "safetensors", "tensorboard", "tqdm", "tyro", "threadpoolctl"],
    ),
    "lightning": (["torch==2.13.0"], ["lightning==2.6.6", "gymnasium==1.4.0", "safetensors"]),
    "transformers": (["torch==2.13.0"], ["transformers==5.24.0", "accelerate"]),
}
"""In this order, each by one call of pip."""


def run_peer(name: str, script: str, settings: Mapping[str, Any], threads: int = 1) -> dict[str, Any]:
    """What a script of this folder prints last, a JSON object, run beside the library `name`.

    The environment is made if it is not there: `~/.cache/agentlib/NAME-venv`, or what NAME_VENV says.
    """
    place = Path(os.environ.get(f"{name.upper()}_VENV", CACHE / f"{name}-venv"))
    python, ready = place / "bin" / "python", place / "ready"
    if not ready.exists():  # absent, or left half made
        venv.create(place, with_pip=True)
        for packages in PACKAGES[name]:
            subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        ready.touch()
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    }
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if name == "sbx" and threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    command = [python, Path(__file__).parent / script, json.dumps(dict(settings))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))
