"""An agent under attack through its observations, before and after adversarial training.

    python examples/attack_an_agent.py [--updates 2000] [--episodes 4]

The agent is a clone of CartPole's scripted expert. Epsilon is in standard deviations of each number that it sees. Noise
of the same size is the control.

Needs no extra, and writes no file. It takes about 50 seconds.
"""

import argparse

import gymnasium
import torch

import agentlib
from agentlib.data import Dataset
from agentlib.envs.experts import expert_for
from agentlib.experience import record_episodes
from agentlib.learners.robustness.alarm import played
from agentlib.learners.robustness.attacked import Attacked

ENV = "CartPole-v1"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--updates", type=int, default=2_000)
    parser.add_argument("--episodes", type=int, default=4)
    options = parser.parse_args()
    demonstrations = record_episodes(expert_for(ENV), ENV, 20, seed=0)
    agent = agentlib.train("bc", demos=demonstrations, steps=options.updates, seed=0, threads="auto")

    # What it sees, and what it does then: to be done also when what it sees is off by a little.
    seen = played(agent, gymnasium.make(ENV), 10_000, random_share=0.2).observation
    actions = torch.from_numpy(agent.act(seen)).long()
    data = Dataset(torch.from_numpy(seen), actions, ("left", "right"))
    result = agentlib.train(
        "adversarial", data=data, agent=agent, steps=options.updates, epsilon=0.1, bounds=None,
        attack_steps=5, batch_size=128, threads="auto",
    )  # fmt: skip

    scale = seen.std(axis=0)
    clean = [agentlib.evaluate(one, ENV, episodes=options.episodes).mean for one in (agent, result.agent)]
    print(f"without attack: {clean[0]:.0f}, and {clean[1]:.0f} after adversarial training")
    print("epsilon  noise  attacked  attacked after adversarial training")
    for epsilon in (0.5, 0.75, 1.0):
        sides = (
            Attacked(agent, epsilon, scale=scale, noise=True),
            Attacked(agent, epsilon, scale=scale),
            Attacked(result.agent, epsilon, scale=scale),
        )
        means = [agentlib.evaluate(side, ENV, episodes=options.episodes).mean for side in sides]
        print(f"{epsilon:7.2f}  {means[0]:5.0f}  {means[1]:8.0f}  {means[2]:8.0f}")


if __name__ == "__main__":
    main()
