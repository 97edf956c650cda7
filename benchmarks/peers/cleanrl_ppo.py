"""CleanRL's ppo.py as its package has it: seconds per environment step of a whole run, by its own clock.

python cleanrl_ppo.py '{"num-envs": 64, "num-steps": 32, "total-timesteps": 61440, ...}'
"""

import contextlib
import io
import json
import os
import runpy
import sys
import tempfile


def main() -> None:
    given = json.loads(sys.argv[1]) | {"cuda": False, "env-id": "CartPole-v1"}
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):  # it writes into its folder
        os.chdir(folder)
        sys.argv = ["ppo.py", *(f"--{name}={value}" for name, value in given.items())]
        runpy.run_module("cleanrl.ppo", run_name="__main__")
        os.chdir("/")
    rates = [int(line.split()[-1]) for line in printed.getvalue().splitlines() if line.startswith("SPS:")]
    print(json.dumps({"seconds": 1.0 / rates[-1]}))


if __name__ == "__main__":
    main()
