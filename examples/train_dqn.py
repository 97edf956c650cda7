"""Deep Q-learning three ways: one call, a config, and the parts.

python examples/train_dqn.py [--steps 10000] [--env CartPole-v1]

Needs no extra, and writes no file. It takes about 40 seconds.
"""

import argparse

import gymnasium

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.core import Linear
from agentlib.experience import Replay, ReplayBuffer
from agentlib.learners import DQN, DQNConfig, run
from agentlib.policies import EpsilonGreedy, GreedyActor, QPolicy


def one_call(env_id: str, steps: int) -> None:
    """A name selects the tuned settings for a known environment."""
    agent = agentlib.train("dqn", env=env_id, steps=steps, seed=0, net_arch=(64, 64), threads="auto")
    print("one call:", agentlib.evaluate(agent, env_id, episodes=20))


def a_config(env_id: str, steps: int) -> None:
    """A config is taken literally; here with double Q-learning and three-step returns."""
    config = DQNConfig(
        learning_rate=1e-3, train_freq=4, target_update_interval=500, learning_starts=500, double=True, n_steps=3
    )
    agent = agentlib.train(config, env=env_id, steps=steps, seed=0, threads="auto")
    print("a config:", agentlib.evaluate(agent, env_id, episodes=20))


def the_parts(env_id: str, steps: int) -> None:
    """What `train` does: built networks in, and a loop that is yours."""
    env = gymnasium.make(env_id)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    assert isinstance(env.observation_space, gymnasium.spaces.Box), "this MLP takes vectors"
    policy = QPolicy(MLP(env.observation_space.shape[0], hidden=(64, 64)), n_actions=int(env.action_space.n))
    learner = DQN(policy, optimizer=adam(learning_rate=1e-3), config=DQNConfig(target_update_interval=500))
    replay = Replay(
        env,
        actor=GreedyActor(policy, env.observation_space),
        buffer=ReplayBuffer(env.observation_space, env.action_space, buffer_size=steps),
        exploration=EpsilonGreedy(env.action_space, epsilon=Linear(1.0, 0.05, over=0.3)),
        batch_size=64,
        learning_starts=500,
        total_steps=steps,
    )
    for clock, update in run(learner, replay, updates=replay.updates_for(steps)):
        if clock.updates % 500 == 0:
            returns = replay.collector.returns
            recent = sum(returns) / max(len(returns), 1)
            print(f"step {clock.steps:6d}   loss {update.metrics['loss']:.4f}   return {recent:.1f}")
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="any environment with vectors in and discrete actions out")
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    for way in (one_call, a_config, the_parts):
        way(arguments.env, arguments.steps)


if __name__ == "__main__":
    main()
