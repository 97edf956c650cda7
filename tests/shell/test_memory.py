"""The allocator of a process that is the shell's alone."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")

PAGES = """
import resource, sys
{setting}
import torch
def pages(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        (torch.ones(1 << 20) + 1.0).sum()  # three pieces, two of 4 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages(3)
print(pages(50))
"""


def asked(setting, **variables):
    """Pages that 50 rounds ask of the system after three."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "THP"))}
    code = PAGES.format(setting=setting)
    done = subprocess.run(
        [sys.executable, "-c", code], env=usual | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_process_of_the_shell_keeps_freed_memory():
    assert asked("from agentlib.shell.memory import keep_memory; keep_memory()") < 100


def test_a_host_of_agentlib_does_not_change():
    """Not by the import, nor by the shell's function in a program of one's own."""
    code = "import os; before = dict(os.environ); import agentlib; from agentlib.shell.main import main; main(['list'])"
    code += "; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_settings_of_the_user_hold():
    code = "from agentlib.shell.memory import keep_memory; keep_memory()"
    assert asked(code, MALLOC_MMAP_THRESHOLD_="131072", THP_MEM_ALLOC_ENABLE="0") > 10_000
