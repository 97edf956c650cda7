"""A few of the changed files that `make test-long` feeds to the readers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["agent", "demonstrations", "sb3", "checkpoint", "config", "zoo"])
def test_the_fuzzer_finds_nothing(target, tmp_path):
    pytest.importorskip("atheris")
    command = [sys.executable, str(FUZZ), "--target", target, "--inputs", "300"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(
        r"^(\d+) inputs, 0 findings$", done.stdout, re.MULTILINE
    )  # a few more than were asked for at times
    assert count is not None, done.stdout
    assert int(count[1]) >= 300
