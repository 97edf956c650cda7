"""An agent in a loop of your own: three lines, and nothing else of agentlib.

    python examples/embed_agent.py [--agent FILE] [--episodes 3]

Without a file it first trains a small agent for a few seconds, and writes runs/embed_agent.safetensors. Needs no extra.
It takes about 6 seconds.
"""

import argparse
from pathlib import Path

import gymnasium

import agentlib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=None, help="an agent file; by default one is trained")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15_000, help="training steps where no file is given")
    arguments = parser.parse_args()

    path = arguments.agent
    if path is None:
        path = Path("runs/embed_agent.safetensors")
        trained = agentlib.train("dqn", env="CartPole-v1", steps=arguments.steps, net_arch=(64, 64), threads="auto")
        trained.save(path)

    agent = agentlib.Agent.load(path)
    env = gymnasium.make("CartPole-v1")
    for episode in range(arguments.episodes):
        obs, info = env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, info = env.step(agent.act(obs))
            total += float(reward)
            over = terminated or truncated
        print(f"episode {episode}: return {total:.0f}")
    env.close()


if __name__ == "__main__":
    main()
