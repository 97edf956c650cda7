"""Where an expert goes left as often as right, the mean of both is a crash: a diffusion policy keeps them apart.

python examples/diffusion_policy.py [--steps 4000] [--episodes 50]

Needs no extra. Writes the agent, runs/detour.safetensors. It takes about 25 seconds.
"""

import argparse

import gymnasium

import agentlib
from agentlib.envs.experts import expert_for
from agentlib.experience.recording import record_episodes

DETOUR = "agentlib/Detour-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--episodes", type=int, default=50)
    arguments = parser.parse_args()

    demos = record_episodes(expert_for(DETOUR), DETOUR, episodes=100)
    cloned = agentlib.train("bc", demos=demos, loss="mse", batch_size=256, steps=arguments.steps, threads="auto")
    print("squared error:", agentlib.evaluate(cloned, DETOUR, episodes=arguments.episodes))

    agent = agentlib.train("diffusion_bc", demos=demos, steps=arguments.steps, threads="auto")
    print("diffusion:", agentlib.evaluate(agent, DETOUR, episodes=arguments.episodes))

    # The same file acts in two ways: `act` always takes the same one, `predict` samples one.
    agent = agentlib.Agent.load(agent.save("runs/detour.safetensors"))
    env, sides = gymnasium.make(DETOUR), []
    for seed in range(arguments.episodes):
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            action, _ = agent.predict(observation, deterministic=False)
            observation, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        sides.append(info["side"] if reward else "crash")
    print("sampled:", {side: sides.count(side) for side in sorted(set(sides))})


if __name__ == "__main__":
    main()
