"""An alarm that rings when a sensor breaks or the world changes, beside the policy's own confidence, which is blind.

python examples/alarm.py [--steps 20000] [--transitions 4000]

Needs no extra, and writes no file. It takes about 50 seconds.
"""

import argparse

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TransformObservation

import agentlib
from agentlib.learners.robustness.alarm import DynamicsAlarm, played
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.detection import detection, max_softmax_score

ENV = "CartPole-v1"


def broken(change):
    """CartPole with a broken sensor."""
    env = gymnasium.make(ENV)
    return TransformObservation(env, change, env.observation_space)


def stuck_angle(observation):
    return observation * np.float32([1, 1, 0, 1]) + np.float32([0, 0, 0.02, 0])


def dead_velocity(observation):
    return observation * np.float32([1, 1, 1, 0])


def longer_pole():
    env = gymnasium.make(ENV)
    env.unwrapped.length, env.unwrapped.polemass_length = 1.0, 0.1
    return env


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--transitions", type=int, default=4_000)
    options = parser.parse_args()
    agent = agentlib.train("dqn", env=ENV, steps=options.steps, seed=0, threads="auto")
    alarm = DynamicsAlarm(played(agent, gymnasium.make(ENV), options.transitions), n_actions=2)
    usual = played(agent, gymnasium.make(ENV), options.transitions // 2, seed=1)
    worlds = {
        "angle stuck": broken(stuck_angle),
        "velocity dead": broken(dead_velocity),
        "pole twice as long": longer_pole(),
    }

    def unsure(transitions):
        return max_softmax_score(logits_of(agent.policy, torch.from_numpy(transitions.observation)))

    for name, env in worlds.items():
        unusual = played(agent, env, options.transitions // 2, seed=2)
        print(f"{name}: {detection(alarm(usual), alarm(unusual))}; "
              f"the policy's maximum softmax: AUROC {detection(unsure(usual), unsure(unusual)).auroc:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
