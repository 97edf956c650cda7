"""`python -m agentlib` is the shell's `agentlib`."""

import sys

from agentlib.shell.main import main

if __name__ == "__main__":
    sys.exit(main())
