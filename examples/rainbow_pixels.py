"""Rainbow from pixels: DQN with all its options learns to catch balls; minutes, since a CNN learns at each fourth step.

python examples/rainbow_pixels.py [--steps 20000]

It sees frames of 36 x 36 grey pixels. The best return is 10, random play gets -0.8, and 20,000 steps with all options
get about 4 (docs/results.md), and without noise about 7 with this seed; after 8,000 there is little to see yet. It
takes about three minutes.

Needs no extra; `agentlib record`, which is named at the end, needs `video`. Writes the agent, runs/catch.safetensors.
"""

import argparse

import agentlib

CATCH = "agentlib/Catch-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()

    agent = agentlib.train("rainbow", env=CATCH, steps=arguments.steps, seed=0, threads="auto")
    print("all options:", agentlib.evaluate(agent, CATCH, episodes=50))

    # A name selects settings, and each can be replaced: here an option is taken out, and epsilon explores instead.
    without = {"noisy": False, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05}
    agent = agentlib.train("rainbow", env=CATCH, steps=arguments.steps, seed=0, threads="auto", **without)
    print("without noise:", agentlib.evaluate(agent, CATCH, episodes=50))

    agent.save("runs/catch.safetensors")
    print("saved as runs/catch.safetensors; to watch it: agentlib record runs/catch.safetensors --env", CATCH)


if __name__ == "__main__":
    main()
