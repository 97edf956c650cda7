"""Our DQN beside Stable-Baselines3's: same environment, same settings, same seeds.

    python examples/compare_with_sb3.py [--steps 10000] [--seeds 2] [--out runs/compare]

Needs the extras `sb3` and `plots`: pip install -c constraints.txt -e '.[sb3,plots]'

Writes all runs and a report to look at in a browser, report.html, to the folder --out. It takes about 60 seconds.
"""

import argparse
from pathlib import Path

import agentlib
from agentlib.learners import DQNConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()

    config = DQNConfig(
        learning_rate=1e-3, learning_starts=500, target_update_interval=500, exploration_fraction=0.3, batch_size=64
    )
    comparison = agentlib.compare(
        config, env=arguments.env, steps=arguments.steps, seeds=arguments.seeds, out=arguments.out
    )
    print(comparison)


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:  # of an extra that is not installed; the message names it
        raise SystemExit(f"{error}") from None
