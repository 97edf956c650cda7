"""Our PPO on EnvPool's CartPole, which needs an environment of its own: seconds per environment step.

python envpool_ppo.py '{"n_envs": 64, "seed": 0}'
"""

import json
import sys
from pathlib import Path

import envpool

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.control import our_many
from benchmarks.rows import threads_of_all


def main() -> None:
    given = json.loads(sys.argv[1])

    def envs():
        return envpool.make_gymnasium("CartPole-v1", num_envs=given["n_envs"], num_threads=1, seed=given["seed"])

    with threads_of_all(1):
        our_many(envs(), given["seed"], rollouts=1)
        print(json.dumps({"seconds": our_many(envs(), given["seed"])}))


if __name__ == "__main__":
    main()
