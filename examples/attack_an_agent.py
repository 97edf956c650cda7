"""An agent under attack through its observations, before and after adversarial training.

    python examples/attack_an_agent.py [--steps 20000] [--updates 1500] [--episodes 5]

Epsilon is in standard deviations of each number that the agent sees. Noise of the same size is the control.
"""

import argparse

import gymnasium
import torch

import agentlib
from agentlib.data import Dataset
from agentlib.evaluation.alarm import played
from agentlib.evaluation.robustness import Attacked

ENV = "CartPole-v1"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--episodes", type=int, default=5)
    options = parser.parse_args()
    agent = agentlib.train("dqn", env=ENV, steps=options.steps, seed=0)

    # What it sees, and what it does then: to be done also when what it sees is off by a little.
    seen = played(agent, gymnasium.make(ENV), 10_000, random_share=0.2).observation
    actions = torch.from_numpy(agent.act(seen)).long()
    data = Dataset(torch.from_numpy(seen), actions, ("left", "right"))
    result = agentlib.train(
        "adversarial", data=data, agent=agent, steps=options.updates, epsilon=0.15, low=None, high=None,
        attack_steps=5, batch_size=128,
    )  # fmt: skip

    scale = seen.std(axis=0)
    print("epsilon  noise  attacked  attacked after adversarial training")
    for epsilon in (0.0, 0.1, 0.2, 0.3):
        sides = (
            Attacked(agent, epsilon, scale=scale, noise=True),
            Attacked(agent, epsilon, scale=scale),
            Attacked(result.agent, epsilon, scale=scale),
        )
        means = [agentlib.evaluate(side, ENV, episodes=options.episodes).mean for side in sides]
        print(f"{epsilon:7.1f}  {means[0]:5.0f}  {means[1]:8.0f}  {means[2]:8.0f}")


if __name__ == "__main__":
    main()
