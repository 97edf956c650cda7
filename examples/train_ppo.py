"""Proximal policy optimization three ways: one call, a config, and the parts.

python examples/train_ppo.py [--steps 20000]

Needs no extra, and writes no file. It takes about 50 seconds.
"""

import argparse

import gymnasium

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.core import Linear
from agentlib.experience import Rollout
from agentlib.learners import PPO, PPOConfig, run
from agentlib.policies import ActorCritic, policy_for


def one_call(steps: int) -> None:
    """A name selects the tuned settings for a known environment: here eight environments side by side."""
    agent = agentlib.train("ppo", env="CartPole-v1", steps=steps, seed=0, threads="auto")
    print("CartPole, one call:", agentlib.evaluate(agent, "CartPole-v1", episodes=20))


def a_config(steps: int) -> None:
    """A config is taken literally; here for real-valued actions."""
    config = PPOConfig(n_steps=512, gamma=0.9, learning_rate=Linear(1e-3, 0.0), normalize=True)
    agent = agentlib.train(config, env="Pendulum-v1", n_envs=4, steps=steps, seed=0, threads="auto")
    print("Pendulum, a config:", agentlib.evaluate(agent, "Pendulum-v1", episodes=20))


def the_parts(steps: int) -> None:
    """What `train` does: built networks in, and a loop that is yours."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=8)
    networks = ActorCritic(policy_for(envs.single_action_space, MLP(4, hidden=(64, 64), activation="tanh")))
    learner = PPO(networks, optimizer=adam(learning_rate=1e-3, eps=1e-5), config=PPOConfig(clip_range=0.2))
    rollout = Rollout(envs, networks, n_steps=32, gae_lambda=0.8, gamma=0.98, batch_size=256, total_steps=steps)
    for clock, update in run(learner, rollout, updates=rollout.updates_for(steps)):
        if clock.updates % 200 == 0:
            returns = rollout.measures().get("rollout/ep_rew_mean", float("nan"))
            print(f"step {clock.steps:6d}   loss {update.metrics['loss']:8.4f}   return {returns:.1f}")
    envs.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    for way in (one_call, a_config, the_parts):
        way(arguments.steps)


if __name__ == "__main__":
    main()
