"""Behavioural cloning from a Minari dataset.

python examples/bc_from_minari.py [--dataset ID] [--episodes 10] [--epochs 20]

Without an id it first writes a small dataset of CartPole's scripted expert, into a folder that is removed at the end.
Nothing else is written. It takes about 7 seconds.

Needs the extra `demos`: pip install -c constraints.txt -e '.[demos]'
"""

import argparse
import os
import tempfile

import agentlib
from agentlib.envs.experts import expert_for
from agentlib.experience import Demonstrations, record_episodes
from agentlib.learners import BCConfig


def write_dataset(episodes: int) -> str:
    """Minari keeps the final observation of each episode, and so do we: nothing is lost on the way."""
    demos = record_episodes(expert_for("CartPole-v1"), "CartPole-v1", episodes, noise=0.1)
    dataset = demos.to_minari("cartpole/scripted-v0", author="agentlib", algorithm_name="scripted")
    print(f"wrote {dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps} steps")
    return str(dataset.id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="the id of a Minari dataset on this machine")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.dataset is None:
            os.environ["MINARI_DATASETS_PATH"] = folder
        demos = Demonstrations.from_minari(arguments.dataset or write_dataset(arguments.episodes))
    print(demos)
    # A fifth of the episodes is held out; training stops when they are no longer predicted better.
    config = BCConfig(epochs=arguments.epochs, validation=0.2, patience=5)
    agent = agentlib.train(config, demos=demos, threads="auto")
    assert isinstance(agent, agentlib.Agent)
    if demos.env_id is not None:
        print("the copy:", agentlib.evaluate(agent, demos.env_id, episodes=20))


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:  # of an extra that is not installed; the message names it
        raise SystemExit(f"{error}") from None
