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
pages(30)
print(pages(50))
"""


def usual():
    """The environment without settings of allocators."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "THP"))}


def asked(setting, **variables):
    """Pages that 50 rounds ask of the system once thirty have been made: the heap has grown to its size then."""
    command = [sys.executable, "-c", PAGES.format(setting=setting)]
    return int(subprocess.run(command, env=usual() | variables, capture_output=True, text=True, check=True).stdout)


def test_a_process_of_the_shell_keeps_freed_memory():
    assert asked("from agentlib.shell.memory import keep_memory; keep_memory()") < 100


CALLS = """
import os
before = dict(os.environ)
import agentlib
from agentlib.shell import main as shell
shell.keep_memory = lambda: print("kept")
shell.main(["--version"])
assert dict(os.environ) == before
print("program")
shell.main = lambda: 0
shell.program()
"""


def test_the_allocator_is_that_of_the_program_alone():
    """Neither the import nor `main`, which a host may call, touches it; `program`, a process of its own, does."""
    done = subprocess.run([sys.executable, "-c", CALLS], env=usual(), capture_output=True, text=True, check=True)
    assert done.stdout.split()[2:] == ["program", "kept"]


def test_settings_of_the_user_hold():
    code = "from agentlib.shell.memory import keep_memory; keep_memory()"
    assert asked(code, MALLOC_MMAP_THRESHOLD_="131072", THP_MEM_ALLOC_ENABLE="0") > 10_000
