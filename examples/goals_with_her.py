"""Goals that are seldom reached: SAC with hindsight replay and without; minutes, since it learns after each step.

python examples/goals_with_her.py [--steps 4000] [--env agentlib/Reach-v0]

A point has to get to a goal, and each step costs 1 until it is there. At random it seldom is, so that there is nothing
to learn from; but it always comes somewhere, and hindsight takes that for the goal. Needs no extra, writes no file,
and takes about two minutes.
"""

import argparse

import gymnasium
from gymnasium import spaces

import agentlib
import agentlib.envs
from agentlib.backbones.choice import backbone_for
from agentlib.experience import HindsightReplay, ReplayBuffer
from agentlib.learners import SAC, SACConfig, run
from agentlib.policies import ActionNoise, Critics, GaussianPolicy, SampledActor


def success(agent: agentlib.Agent, env_id: str, episodes: int = 50) -> float:
    """The share of episodes in whose last step the goal is reached."""
    env, reached = gymnasium.make(env_id), 0
    for episode in range(episodes):
        observation, info = env.reset(seed=10_000 + episode)
        done = False
        while not done:
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
            done = terminated or truncated
        reached += bool(info["is_success"])
    env.close()
    return reached / episodes


def one_call(env_id: str, steps: int) -> None:
    """`n_sampled_goal` says how many transitions get another goal for each one with its own."""
    settings = {"learning_rate": 1e-3, "net_arch": (64, 64), "learning_starts": 500, "gamma": 0.95}
    for goals in (4, 0):
        agent = agentlib.train("sac", env=env_id, steps=steps, seed=0, n_sampled_goal=goals, **settings)
        print(f"n_sampled_goal={goals}: success in {success(agent, env_id):.0%} of episodes")


def the_parts(env_id: str, steps: int) -> None:
    """The same by hand: the source of SAC's batches is a `HindsightReplay`."""
    env = gymnasium.make(env_id)
    observations, actions = env.observation_space, env.action_space
    assert isinstance(actions, spaces.Box), "SAC has real-valued actions"
    backbone = backbone_for(observations, net_arch=(64, 64))
    policy = GaussianPolicy(backbone, actions, squashed=True, state_dependent_std=True)
    config = SACConfig(learning_rate=1e-3)
    learner = SAC(policy, Critics.for_spaces(observations, actions, net_arch=(64, 64)), config.optimizer(), config)
    replay = HindsightReplay(
        env,
        actor=SampledActor(policy, observations, seed=0),
        buffer=ReplayBuffer(observations, actions, buffer_size=steps),
        exploration=ActionNoise(actions, random_steps=500),
        batch_size=256,
        learning_starts=500,
        train_freq=1,
        gamma=0.95,
        total_steps=steps,
        n_sampled_goal=4,
        goal_selection_strategy="future",
    )
    for _ in run(learner, replay, updates=replay.updates_for(steps)):
        pass
    env.close()
    agent = agentlib.Agent(policy, observations, actions)
    print(f"the parts: success in {success(agent, env_id):.0%} of episodes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="agentlib/Reach-v0", help="an environment with goals and compute_reward")
    parser.add_argument("--steps", type=int, default=4_000)
    arguments = parser.parse_args()
    for way in (one_call, the_parts):
        way(arguments.env, arguments.steps)


if __name__ == "__main__":
    main()
