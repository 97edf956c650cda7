"""`python -m agentlib` is the shell's `agentlib`."""

import sys

from agentlib.shell.main import program

if __name__ == "__main__":
    sys.exit(program())
