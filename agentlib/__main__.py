"""`python -m agentlib` is the shell's `agentlib`."""

import sys

from agentlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
