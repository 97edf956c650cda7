"""Imitating after 20 labelled steps: MAML learns from many CartPoles how to adapt to a new one with one gradient step.

    python examples/few_shot_imitation.py [--tasks 100] [--updates 1000] [--new 8]

Each CartPole has a pole and a motor of its own, and half of the motors are wired the other way round. One policy for
all of them can be right about one half at best; MAML learns weights from which one step on a little of a new expert's
demonstration leads to a policy for its CartPole.

Needs no extra, and writes no file. It takes about 25 seconds.
"""

import argparse

import gymnasium
import numpy as np

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.core.randomness import fresh_weights
from agentlib.data import Pairs, Pools, labelled_steps
from agentlib.envs.cartpole_varied import Dynamics, balancing_expert, draw_dynamics
from agentlib.experience import record_episodes
from agentlib.learners import MAML, MAMLConfig, run
from agentlib.policies import CategoricalPolicy

ENV = "agentlib/CartPoleVaried-v0"
SHOTS = 20


def demonstrated(dynamics: Dynamics, seed: int):
    """Episodes of the expert for these dynamics, with some random steps, so that it shows how to recover."""
    expert = balancing_expert(*dynamics)
    return record_episodes(expert, ENV, 3, seed=seed, noise=0.2, env_kwargs=dynamics._asdict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--updates", type=int, default=1_000)
    parser.add_argument("--new", type=int, default=8)
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    demonstrations = [demonstrated(draw_dynamics(generator), seed) for seed in range(arguments.tasks)]
    learners = {}
    for name, inner_steps in (("MAML", 1), ("one policy for all", 0)):
        config = MAMLConfig(loss="cross_entropy", inner_learning_rate=0.1, inner_steps=inner_steps)
        with fresh_weights(0):
            policy = CategoricalPolicy(MLP(4, hidden=(64, 64)), n_actions=2)
        learners[name] = MAML(policy, adam(2e-3), config)
        tasks = min(25, arguments.tasks)
        source = Pools.from_demonstrations(demonstrations, shots=SHOTS, queries=SHOTS, tasks=tasks)
        for _ in run(learners[name], source, arguments.updates):
            pass

    print(
        f"Mean return on new CartPoles, after one step on {SHOTS} labelled steps of a demonstration (500 is the best):"
    )
    for number in range(arguments.new):
        dynamics = draw_dynamics(generator)
        steps = labelled_steps(demonstrated(dynamics, seed=10_000 + number))
        scores = []
        for name, learner in learners.items():
            adapted = learner.adapt(Pairs(steps.x[:SHOTS], steps.y[:SHOTS]), steps=1)
            env = gymnasium.make(ENV, **dynamics._asdict())
            agent = agentlib.Agent(adapted, env.observation_space, env.action_space)
            scores.append(f"{name} {agentlib.evaluate(agent, env, episodes=5).mean:.0f}")
        print(f"  half a pole of {dynamics.length:.2f} m, motor of {dynamics.force:+.1f} N: {', '.join(scores)}")


if __name__ == "__main__":
    main()
