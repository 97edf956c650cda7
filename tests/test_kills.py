"""kill -9 at random moments: a few of the 200 kills that `make test-long` does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_random_moments(tmp_path):
    command = [sys.executable, str(KILLS), "--kills", "6", "--runs", "dqn, prioritized;bc", "--out", "kills.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "kills.json").read_text())
    assert (result["kills"], result["equal"], result["troubles"]) == (6, 6, [])
