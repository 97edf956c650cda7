"""Soft actor-critic on Pendulum: one call, then the parts. It takes two minutes: SAC learns after each single step.

python examples/train_sac.py [--steps 5000] [--env Pendulum-v1]

Needs no extra, and writes no file. Each update is on 256 transitions, with a policy and four networks of values.
"""

import argparse

import gymnasium
from gymnasium import spaces

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.experience import Replay, ReplayBuffer
from agentlib.learners import SAC, SACConfig, run
from agentlib.policies import ActionNoise, Critics, GaussianPolicy, SampledActor


def one_call(env_id: str, steps: int) -> None:
    """A name selects the tuned settings for a known environment."""
    agent = agentlib.train("sac", env=env_id, steps=steps, seed=0, net_arch=(64, 64), learning_starts=1_000)
    print("one call:", agentlib.evaluate(agent, env_id, episodes=20))


def the_parts(env_id: str, steps: int) -> None:
    """The same by hand: a policy, two critics, and a loop that is yours."""
    env = gymnasium.make(env_id)
    observations, actions = env.observation_space, env.action_space
    assert isinstance(observations, spaces.Box), "this MLP takes vectors"
    assert isinstance(actions, spaces.Box), "SAC has real-valued actions"
    policy = GaussianPolicy(MLP(observations.shape[0], (64, 64)), actions, squashed=True, state_dependent_std=True)
    critics = Critics.for_spaces(observations, actions, net_arch=(64, 64))
    learner = SAC(policy, critics, optimizer=adam(learning_rate=1e-3), config=SACConfig())
    replay = Replay(
        env,
        actor=SampledActor(policy, observations, seed=0),
        buffer=ReplayBuffer(observations, actions, buffer_size=steps),
        exploration=ActionNoise(actions, random_steps=1_000),
        batch_size=256,
        learning_starts=1_000,
        train_freq=1,
        total_steps=steps,
    )
    for clock, update in run(learner, replay, updates=replay.updates_for(steps)):
        if clock.updates % 1_000 == 0:
            returns = replay.collector.returns
            recent = sum(list(returns)[-5:]) / max(len(list(returns)[-5:]), 1)
            print(f"step {clock.steps:6d}   entropy {update.metrics['entropy']:.2f}   return {recent:.0f}")
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="any environment with vectors in and real numbers out")
    parser.add_argument("--steps", type=int, default=5_000)
    arguments = parser.parse_args()
    for way in (one_call, the_parts):
        way(arguments.env, arguments.steps)


if __name__ == "__main__":
    main()
